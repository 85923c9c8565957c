//! Tables in a bucket: real hubs, killed, beside a server that speaks S3.
//!
//! The server is moto's, from PyPI (`.ci/setup test` installs it); without it the test says why and passes.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SELVEDGE: &str = env!("CARGO_BIN_EXE_selvedge");

/// Where the server's program is, or why it is not.
fn program() -> Result<PathBuf, String> {
    let cache = std::env::var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|_| {
        std::env::var("HOME")
            .map(|home| PathBuf::from(home).join(".cache"))
            .map_err(|_| "HOME is not set".to_owned())
    })?;
    let path = cache.join("selvedge/moto/bin/moto_server");
    if path.exists() { Ok(path) } else { Err(format!("it needs {}: .ci/setup test", path.display())) }
}

/// A server with an empty bucket.
struct S3 {
    child: Child,
    at: SocketAddr,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    fn start(program: PathBuf) -> S3 {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &at.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let s3 = S3 { child, at };
        let begun = Instant::now();
        while !s3.asked("PUT", "/tables").is_ok_and(|a| a.contains(" 200 ")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no bucket after a minute");
            std::thread::sleep(Duration::from_millis(200));
        }
        s3
    }

    fn asked(&self, method: &str, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.at)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.at
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn selvedge(&self, args: &[&str]) -> Output {
        Command::new(SELVEDGE)
            .args(args)
            .env("AWS_ENDPOINT", format!("http://{}", self.at))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .output()
            .unwrap()
    }
}

#[test]
fn a_hub_keeps_its_tables_in_a_bucket_and_loses_nothing_when_it_is_killed() {
    let program = match program() {
        Ok(program) => program,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let s3 = S3::start(program);
    let crowd = |more: &[&str]| {
        let mut args = vec!["bench", "ingest", "--agents", "4", "--rate", "2000", "--json"];
        args.extend(more);
        let done = s3.selvedge(&args);
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{more:?}: {said}");
        serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap()
    };
    // One that is started again finds no lock, only that nobody writes any more.
    let one = crowd(&["--seconds", "8", "--kills", "1", "--data", "s3://tables/one"]);
    assert_eq!((&one["stored_once"], &one["made_is_stored_and_lost"]), (&true.into(), &true.into()), "{one}");
    let two = crowd(&["--seconds", "8", "--kills", "1", "--standby", "--data", "s3://tables/two/and/more"]);
    assert_eq!((&two["stored_once"], &two["made_is_stored_and_lost"]), (&true.into(), &true.into()), "{two}");
    assert!(two["follow_after_kill_s_max"].as_f64().unwrap() < 10.0, "{two}");
    let kept = s3.asked("GET", "/tables?list-type=2&prefix=two/and/more/tables/path_observation/").unwrap();
    assert!(kept.contains("_delta_log/00000000000000000001.json") && kept.contains(".parquet"), "{kept}");
}

#[test]
fn what_is_no_place_is_said() {
    let hub = |data: &str| {
        let args = ["hub", "--fabric", "f", "--cert", "c", "--key", "k", "--ca", "a", "--data", data];
        let done = Command::new(SELVEDGE).args(args).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said) = hub("ftp://somewhere/else");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("s3://bucket/prefix"), "{said}");
}
