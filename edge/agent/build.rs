//! Generates the client of the hub's service, and the server its tests let it talk to; the messages are `wire`'s. Compiles
//! the sensors' programs with clang, the only compiler the BPF target needs.

use std::path::Path;
use std::process::{Command, exit};

/// Sensors with a program of their own.
const PROGRAMS: &[&str] = &["tcp", "drops", "delay", "flows"];

fn main() {
    let proto = "../../pure/wire/proto";
    let set = protox::compile([format!("{proto}/selvedge.proto")], [proto]).expect("selvedge.proto compiles");
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".selvedge.v1", "::wire::proto")
        .compile_fds(set)
        .expect("the client is generated");
    println!("cargo:rerun-if-changed={proto}/selvedge.proto");
    println!("cargo:rerun-if-changed=src/sensors/vmlinux.h");
    println!("cargo:rerun-if-env-changed=CLANG");
    for name in PROGRAMS {
        program(name);
    }
}

fn program(name: &str) {
    let source = format!("src/sensors/{name}/prog.bpf.c");
    println!("cargo:rerun-if-changed={source}");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default()).join(format!("{name}.bpf.o"));
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // How the tracing headers call a machine.
    let machine = match arch.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let done = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"])
        .arg(format!("-D__TARGET_ARCH_{machine}"))
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", &source, "-o"])
        .arg(&out)
        .status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "{clang} could not compile {source} ({status}); it needs <bpf/bpf_helpers.h> (Debian: libbpf-dev)"
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
