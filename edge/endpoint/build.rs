//! Compiles the program that puts packets on exact paths, with clang, the only compiler the BPF target needs.

use std::path::Path;
use std::process::{Command, exit};

fn main() {
    let source = "src/steer/steer.bpf.c";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join("steer.bpf.o");
    // <linux/types.h> wants <asm/types.h>, which Debian keeps in a directory of the machine's architecture.
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let done = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", source, "-o"])
        .arg(&out)
        .status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "{clang} could not compile {source} ({status}); it needs <linux/bpf.h> (Debian: linux-libc-dev)"
        )),
        Err(e) => {
            fail(&format!("{clang} is needed to compile {source}: {e} (Debian: apt-get install clang)"))
        }
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    exit(1)
}
