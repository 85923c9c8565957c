//! `cargo xtask security`: each promise of SECURITY.md, broken on purpose against a real hub.
//!
//! How: certificates, an access file and a hub are made as an operator makes them; then everything that must be refused
//! is tried over real connections, and each refusal must be answered, counted in `/metrics` and found in the audit table.
//! At the end the hub must still answer, and its log and tables must hold no secret. The library's own tests (`guarded`)
//! run first: they hold what needs a hub in the same process (sign-in elsewhere, tenants, Flight SQL).
//! Absent on purpose: the transport's and the probes' promises, which `cargo xtask fuzz` and their rooms' tests hold.

use crate::{root, sh};
use anyhow::{Context, bail, ensure};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Connections opened at once.
const CONNECTIONS: usize = 10_000;
const PASSWORD: &str = "correct horse battery staple";
const HOOK_SECRET: &str = "a secret nobody else knows";
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the library's tests, which `cargo xtask ci` runs as well
    #[arg(long)]
    no_tests: bool,
}

/// A hub that ends with this, and everything made for it.
struct Hub {
    dir: PathBuf,
    binary: PathBuf,
    http: SocketAddr,
    grpc: String,
    process: Child,
    admin: String,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs the product with something on its standard input; what it prints.
fn run_with(binary: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new(binary)
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// An answer: status, head and body.
struct Got {
    status: u16,
    head: String,
    body: String,
}

/// Sends bytes as they are, so that nothing on this side makes them harmless.
fn raw(addr: SocketAddr, request: &[u8]) -> anyhow::Result<Got> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may answer and close before everything is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut buf = [0u8; 16 << 10];
    loop {
        match stream.read(&mut buf) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&buf[..n]),
        }
        ensure!(answer.len() < 16 << 20, "the answer does not end");
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    Ok(Got { status, head: head.to_owned(), body: body.to_owned() })
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(n, _)| *n == "host") {
        head.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" {
        head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    format!("{head}\r\n{body}").into_bytes()
}

impl Hub {
    fn start(binary: PathBuf) -> anyhow::Result<Hub> {
        let dir = std::env::temp_dir().join(format!("selvedge-security-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let at = |name: &str| dir.join(name).display().to_string();
        let access = at("access.toml");
        let certs = at("certs");
        run_with(&binary, &["cert", "init", "--dir", &certs], "")?;
        run_with(&binary, &["cert", "hub", "--dir", &certs], "")?;
        run_with(&binary, &["cert", "host", "--dir", &certs, "host3", "host99"], "")?;
        for (name, role) in [("vera", "viewer"), ("otto", "operator")] {
            let args = ["access", "user", name, "--role", role, "--file", &access];
            run_with(&binary, &args, &format!("{PASSWORD}\n"))?;
        }
        let token = |name: &str, role: &str, scope: &str, validity: &str| {
            let args = [
                "access", "token", name, "--role", role, "--scope", scope, "--for", validity, "--file",
                &access,
            ];
            run_with(&binary, &args, "")
        };
        let admin = token("admin", "admin", "metrics,read,query,act,reveal", "1h")?;
        fs::write(dir.join("deploy.secret"), HOOK_SECRET)?;
        let hook = "\n[[hook]]\nname = \"deploy\"\nsecret_file = \"deploy.secret\"\n";
        fs::OpenOptions::new().append(true).open(&access)?.write_all(hook.as_bytes())?;
        let log = fs::File::create(dir.join("hub.log"))?;
        let ready = dir.join("ready.json");
        let process = Command::new(&binary)
            .args([
                "hub",
                "--fabric",
                "scenarios/quiet-16.toml",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
            ])
            // In the clear on loopback, so that every byte sent is seen to be what was meant.
            .args(["--http-insecure", "--data", &at("data"), "--access", &access])
            .args(["--cert", &format!("{certs}/hub.pem"), "--key", &format!("{certs}/hub.key")])
            .args(["--ca", &format!("{certs}/ca.pem"), "--ready-file", &ready.display().to_string()])
            .env("SELVEDGE_LOG", "debug")
            .current_dir(root())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut hub = Hub {
            dir,
            binary,
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            grpc: String::new(),
            process,
            admin,
        };
        let begun = Instant::now();
        let bound: Value = loop {
            if let Ok(text) = fs::read_to_string(&ready) {
                break serde_json::from_str(&text)?;
            }
            ensure!(hub.process.try_wait()?.is_none(), "the hub ended: {}", hub.log()?);
            ensure!(begun.elapsed() < PATIENCE, "the hub does not begin: {}", hub.log()?);
            std::thread::sleep(Duration::from_millis(50));
        };
        hub.http = bound["http"].as_str().context("no address")?.parse()?;
        hub.grpc = bound["grpc"].as_str().context("no address")?.to_owned();
        Ok(hub)
    }

    fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.dir.join("hub.log"))?)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Got> {
        raw(self.http, &request(method, path, headers, body))
    }

    /// Logs in; the cookie and the token against forged requests.
    fn log_in(&self, name: &str) -> anyhow::Result<(String, String)> {
        let body = json!({ "name": name, "password": PASSWORD }).to_string();
        let got = self.ask("POST", "/api/v1/login", &[], &body)?;
        ensure!(got.status == 200, "{name} cannot log in: {}", got.body);
        let cookie = got.head.lines().find_map(|l| l.strip_prefix("set-cookie: ")?.split(';').next());
        let me: Value = serde_json::from_str(&got.body)?;
        let csrf = me["csrf"].as_str().context("no csrf")?;
        Ok((cookie.context("no cookie")?.to_owned(), csrf.to_owned()))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.admin)
    }

    /// How often something was refused, by the counters.
    fn counted(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let got = self.ask("GET", "/metrics", &[("authorization", &self.bearer())], "")?;
        let of = |line: &str| {
            let (reason, n) =
                line.strip_prefix("selvedge_hub_refused_total{reason=\"")?.split_once("\"} ")?;
            Some((reason.to_owned(), n.trim().parse().ok()?))
        };
        Ok(got.body.lines().filter_map(of).collect())
    }

    /// How often something was refused, by the audit table.
    fn audited(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let sql = "select reason, sum(times) from audit where outcome = 'refused' group by reason";
        let body = json!({ "sql": sql }).to_string();
        let got = self.ask("POST", "/api/v1/query", &[("authorization", &self.bearer())], &body)?;
        ensure!(got.status == 200, "the audit table cannot be asked: {}", got.body);
        let view: Value = serde_json::from_str(&got.body)?;
        let rows = view["rows"].as_array().context("no rows")?;
        Ok(rows.iter().filter_map(|r| Some((r[0].as_str()?.to_owned(), r[1].as_u64()?))).collect())
    }

    fn an_agent(&self, name: &str) -> anyhow::Result<String> {
        let certs = self.dir.join("certs");
        let file = |ext: &str| certs.join(format!("{name}.{ext}")).display().to_string();
        let mut agent = Command::new(&self.binary)
            .args(["agent", "--hub", &format!("https://{}", self.grpc), "--cert", &file("pem")])
            .args(["--key", &file("key"), "--ca", &certs.join("ca.pem").display().to_string()])
            .args(["--transport-socket", &self.dir.join("transport.sock").display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // It tries again and again; two seconds are a few times.
        std::thread::sleep(Duration::from_secs(2));
        let _ = agent.kill();
        let out = agent.wait_with_output()?;
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// One promise: what it is called, what is tried, why it is refused, and the attempt, which says what was answered.
type Attempt = fn(&Hub) -> anyhow::Result<String>;

fn status(got: &Got, wanted: u16) -> anyhow::Result<String> {
    ensure!(got.status == wanted, "answered {} instead of {wanted}: {}", got.status, got.body);
    Ok(got.status.to_string())
}

fn another_host(hub: &Hub) -> anyhow::Result<String> {
    let said = hub.an_agent("host99")?;
    ensure!(said.contains("host99"), "the agent was not told: {said}");
    Ok("refused".to_owned())
}

fn expired(hub: &Hub) -> anyhow::Result<String> {
    let access = hub.dir.join("access.toml").display().to_string();
    let args = ["access", "token", "brief", "--scope", "read", "--for", "3s", "--file", &access];
    let token = format!("Bearer {}", run_with(&hub.binary, &args, "")?);
    let read = || hub.ask("GET", "/api/v1/agents", &[("authorization", &token)], "");
    // The hub looks at its file every two seconds; then it is good, and then no more.
    let begun = Instant::now();
    let mut was_good = false;
    loop {
        let got = read()?;
        was_good |= got.status == 200;
        if was_good && got.status == 401 {
            ensure!(got.body.contains("expired"), "{}", got.body);
            return Ok("200, then 401".to_owned());
        }
        ensure!(begun.elapsed() < PATIENCE, "it never became good and then expired");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn viewer(hub: &Hub) -> anyhow::Result<String> {
    let (cookie, csrf) = hub.log_in("vera")?;
    let headers = [("cookie", cookie.as_str()), ("x-selvedge-csrf", csrf.as_str())];
    status(&hub.ask("POST", "/api/v1/incidents/inc-1/acknowledge", &headers, "{}")?, 403)
}

fn sql(hub: &Hub) -> anyhow::Result<String> {
    let target = hub.dir.join("stolen.csv").display().to_string();
    for sql in [
        format!("copy link to '{target}'"),
        format!("copy (select * from audit) to '{target}' stored as parquet"),
        "create external table t stored as csv location '/etc/passwd'".to_owned(),
        "select * from '/etc/passwd'".to_owned(),
        "insert into link select * from link".to_owned(),
        "drop table link".to_owned(),
        "set datafusion.catalog.location = '/'".to_owned(),
    ] {
        let body = json!({ "sql": sql }).to_string();
        let got = hub.ask("POST", "/api/v1/query", &[("authorization", &hub.bearer())], &body)?;
        ensure!(got.status == 400 && !got.body.contains("root:"), "{sql}: {} {}", got.status, got.body);
    }
    ensure!(!Path::new(&target).exists(), "a file was written");
    Ok("400".to_owned())
}

fn gigabyte(hub: &Hub) -> anyhow::Result<String> {
    let head = format!(
        "POST /api/v1/query HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        hub.bearer(),
        1u64 << 30
    );
    let mut all = head.into_bytes();
    all.resize(all.len() + (8 << 20), b'x');
    status(&raw(hub.http, &all)?, 413)
}

fn connections(hub: &Hub) -> anyhow::Result<String> {
    let mut all = Vec::with_capacity(CONNECTIONS);
    let mut refused = 0;
    for _ in 0..CONNECTIONS {
        match TcpStream::connect(hub.http) {
            Ok(s) => all.push(s),
            Err(_) => refused += 1,
        }
    }
    // Somebody from elsewhere is still answered while all of them are held.
    let got = from_elsewhere(hub.http)?;
    ensure!(got.contains(" 200 "), "nobody else gets in meanwhile: {got}");
    let mut open = 0;
    for s in &mut all {
        s.set_read_timeout(Some(Duration::from_millis(1)))?;
        let silent = s.read(&mut [0u8; 1]).is_err_and(|e| {
            matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        });
        open += usize::from(silent);
    }
    ensure!(open <= 128, "{open} stayed open");
    Ok(format!("{open} open, {} closed", all.len() - open + refused))
}

/// Asks whether the hub lives, from another address of this machine.
fn from_elsewhere(addr: SocketAddr) -> anyhow::Result<String> {
    let script = "import socket,sys\n\
                  s=socket.create_connection((sys.argv[1],int(sys.argv[2])),10,source_address=('127.0.0.2',0))\n\
                  s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n')\n\
                  print(s.recv(100).decode())";
    let out = Command::new("python3")
        .args(["-c", script, &addr.ip().to_string(), &addr.port().to_string()])
        .output()
        .context("python3 cannot be started")?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

fn traversal(hub: &Hub) -> anyhow::Result<String> {
    for path in
        ["/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets/..%2F..%2Fetc%2Fpasswd"]
    {
        let got = hub.ask("GET", path, &[], "")?;
        ensure!(!got.body.contains("root:"), "{path} reached the disk");
    }
    status(&hub.ask("GET", "/assets/../../etc/passwd", &[], "")?, 400)
}

fn forged_hook(hub: &Hub) -> anyhow::Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let body = json!({ "kind": "deploy", "subject": "p0-leaf1", "what": "began" }).to_string();
    let signature = format!("t={now},v1={}", "00".repeat(32));
    status(&hub.ask("POST", "/api/v1/hooks/deploy", &[("x-selvedge-signature", &signature)], &body)?, 401)
}

fn forged_request(hub: &Hub) -> anyhow::Result<String> {
    let (cookie, csrf) = hub.log_in("otto")?;
    let path = "/api/v1/incidents/inc-1/acknowledge";
    let foreign =
        [("cookie", cookie.as_str()), ("x-selvedge-csrf", csrf.as_str()), ("origin", "https://evil.example")];
    status(&hub.ask("POST", path, &foreign, "{}")?, 403)
}

fn without_its_token(hub: &Hub) -> anyhow::Result<String> {
    let (cookie, _) = hub.log_in("otto")?;
    let path = "/api/v1/incidents/inc-1/acknowledge";
    status(&hub.ask("POST", path, &[("cookie", &cookie)], "{}")?, 403)
}

fn rebinding(hub: &Hub) -> anyhow::Result<String> {
    let headers = [("host", "evil.example"), ("authorization", &*hub.bearer())];
    status(&hub.ask("GET", "/api/v1/now", &headers, "")?, 421)
}

fn guessing(hub: &Hub) -> anyhow::Result<String> {
    let body = json!({ "name": "nobody", "password": "a guess of a password" }).to_string();
    let mut said = Vec::new();
    for _ in 0..15 {
        said.push(hub.ask("POST", "/api/v1/login", &[], &body)?.status);
    }
    ensure!(said.contains(&401) && said.ends_with(&[429]), "{said:?}");
    Ok("401, then 429".to_owned())
}

const PROMISES: &[(&str, &str, Attempt)] = &[
    ("an agent with a certificate of no host of this fabric", "unknown_host", another_host),
    ("an expired token", "expired_token", expired),
    ("a viewer who acknowledges", "role", viewer),
    ("SQL that writes or reads files", "statement", sql),
    ("a request of 1 GB", "too_large", gigabyte),
    ("ten thousand open connections", "too_many_connections", connections),
    ("a path traversal", "path_traversal", traversal),
    ("a forged webhook", "signature", forged_hook),
    ("a request another site forged", "foreign_site", forged_request),
    ("a change without the session's token", "csrf", without_its_token),
    ("a name pointed at the hub (DNS rebinding)", "host", rebinding),
    ("passwords guessed one after the other", "too_many_logins", guessing),
];

/// What must be nowhere but with its owner.
fn no_secret_leaks(hub: &Hub) -> anyhow::Result<()> {
    let secrets = [PASSWORD, HOOK_SECRET, &hub.admin, "a guess of a password"];
    let mut files = vec![hub.dir.join("hub.log")];
    let mut dirs = vec![hub.dir.join("data")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    for file in files {
        let bytes = fs::read(&file)?;
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            ensure!(!found, "{} holds a secret", file.display());
        }
    }
    Ok(())
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let open = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    if open.unwrap_or(0usize) < CONNECTIONS + 100 {
        // More open files than a shell allows; the limit of this process alone is raised.
        let this = format!("--pid={}", std::process::id());
        sh("prlimit", &[&this, &format!("--nofile={}", 2 * CONNECTIONS)])?;
    }
    sh("cargo", &["build", "--quiet", "--package", "selvedge"])?;
    if !args.no_tests {
        sh("cargo", &["nextest", "run", "--workspace", "-E", "test(guarded) + test(guard::)"])?;
    }
    let hub = Hub::start(crate::soak::binary()?)?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["tried", "answered", "refused as", "counted", "audited"]);
    let mut failed = Vec::new();
    for (what, why, attempt) in PROMISES {
        eprintln!("trying {what}");
        match attempt(&hub) {
            Ok(answered) => {
                // What is refused is written within a second.
                std::thread::sleep(Duration::from_millis(1_500));
                let n = |of: BTreeMap<String, u64>| of.get(*why).copied().unwrap_or(0);
                let (counted, audited) = (n(hub.counted()?), n(hub.audited()?));
                if counted == 0 || audited != counted {
                    failed.push(format!("{what}: counted {counted} times, audited {audited} times"));
                }
                table.add_row([*what, &answered, why, &counted.to_string(), &audited.to_string()]);
            }
            Err(e) => {
                table.add_row([*what, "NOT REFUSED", why, "", ""]);
                failed.push(format!("{what}: {e:#}"));
            }
        }
    }
    if let Err(e) = no_secret_leaks(&hub) {
        failed.push(format!("secrets: {e:#}"));
    }
    let alive = hub.ask("GET", "/healthz", &[], "")?.status;
    println!("{table}\nafter all of it the hub answers {alive}");
    if alive != 200 {
        failed.push("the hub does not answer any more".to_owned());
    }
    if !failed.is_empty() {
        bail!("promises broken:\n  {}", failed.join("\n  "));
    }
    Ok(())
}
