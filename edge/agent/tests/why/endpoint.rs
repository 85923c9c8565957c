//! The programs at both ends of the connections, as processes of their own: this test binary started again with a role.
//!
//! What they say goes to standard output in lines that begin with `@`; they end when their standard input does, so none
//! outlives the test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Name of the variable that makes a process one of these.
const ROLE: &str = "SELVEDGE_WHY_ROLE";

/// A started program.
pub struct Endpoint {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Endpoint {
    /// Starts one in this thread's namespace. `wrap` is a program to start it with (`taskset`, `nice`).
    pub fn start(wrap: &[&str], role: &str, settings: &[(&str, String)]) -> Endpoint {
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let mut words: Vec<&str> = wrap.to_vec();
        words.extend([own, "--exact", "endpoint_process", "--ignored", "--nocapture", "--test-threads=1"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.env(ROLE, role);
        for (name, value) in settings {
            command.env(format!("{ROLE}_{name}"), value);
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Endpoint { child, lines }
    }

    /// The next thing it says; none where it has ended.
    pub fn said(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap_or(0) > 0 {
            if let Some((_, said)) = line.split_once('@') {
                return Some(said.trim().to_string());
            }
            line.clear();
        }
        None
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings of a role.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn of_this_process() -> Settings {
        Settings(std::env::vars().filter_map(|(k, v)| Some((k.strip_prefix(ROLE)?.to_string(), v))).collect())
    }
    fn number(&self, name: &str) -> u64 {
        self.0.get(&format!("_{name}")).and_then(|v| v.parse().ok()).unwrap_or(0)
    }
    fn address(&self, name: &str) -> SocketAddr {
        self.0[&format!("_{name}")].parse().unwrap()
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{what}").unwrap();
    out.flush().unwrap();
}

/// What a started process does; returns at once in any other.
pub fn run() {
    let settings = Settings::of_this_process();
    let Some(role) = settings.0.get("").cloned() else {
        println!("skipped: this is for the processes the other tests start");
        return;
    };
    // the end of the test is the end of its programs
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    match role.as_str() {
        "server" => server(&settings),
        "client" => client(&settings),
        "hog" => hog(),
        _ => panic!("no role {role}"),
    }
}

fn hog() {
    say("ready");
    let mut n = 1u64;
    loop {
        n = std::hint::black_box(n.wrapping_mul(6364136223846793005).wrapping_add(1));
    }
}

/// Work that takes about so many nanoseconds for a thousand bytes. Counted, not timed: a program that gets no processor must
/// need longer.
fn work(bytes: u64, ns_per_thousand: u64) {
    let mut n = 1u64;
    for _ in 0..bytes * ns_per_thousand / 1_000 {
        n = std::hint::black_box(n.wrapping_mul(3).wrapping_add(1));
    }
}

/// `BACKLOG`, `ACCEPT` (0: never), `CHUNK` bytes a read, `PAUSE` µs after each, `WORK` ns a thousand bytes, `BUFFER` bytes.
fn server(s: &Settings) {
    use socket2::{Domain, Socket, Type};
    let at = s.address("AT");
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    if s.number("BUFFER") > 0 {
        socket.set_recv_buffer_size(s.number("BUFFER") as usize).unwrap();
    }
    socket.bind(&at.into()).unwrap();
    socket.listen(s.number("BACKLOG").max(1) as i32).unwrap();
    let listener: std::net::TcpListener = socket.into();
    say("ready");
    if s.number("ACCEPT") == 0 {
        loop {
            std::thread::park();
        }
    }
    let (chunk, pause, ns) = (s.number("CHUNK").max(1), s.number("PAUSE"), s.number("WORK"));
    let read = move |mut stream: TcpStream| {
        let mut buffer = vec![0; chunk as usize];
        while let Ok(n) = stream.read(&mut buffer) {
            if n == 0 {
                break;
            }
            work(n as u64, ns);
            if pause > 0 {
                std::thread::sleep(Duration::from_micros(pause));
            }
        }
    };
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        std::thread::spawn(move || read(stream));
    }
}

/// `TO`, `MESSAGE` bytes a write, `PAUSE` µs after each, `WORK` ns a thousand bytes, `COUNT` connections, `LIMIT` bytes in all
/// (0: no end), `CONGESTION` a name, `AGAIN` (try again when refused).
fn client(s: &Settings) {
    use socket2::{Domain, Socket, Type};
    let to = s.address("TO");
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        if let Some(name) = s.0.get("_CONGESTION") {
            socket.set_tcp_congestion(name.as_bytes()).unwrap();
        }
        if s.number("SENDBUF") > 0 {
            socket.set_send_buffer_size(s.number("SENDBUF") as usize).unwrap();
        }
        socket.set_tcp_nodelay(true).unwrap();
        socket
    };
    let mut others = Vec::new();
    for _ in 1..s.number("COUNT").max(1) {
        let socket = connect();
        if socket.connect_timeout(&to.into(), Duration::from_secs(1)).is_ok() {
            let _ = (&socket).write(b"x");
            others.push(socket);
        }
    }
    say("connecting");
    let mut stream = loop {
        let socket = connect();
        match socket.connect(&to.into()) {
            Ok(()) => break TcpStream::from(socket),
            Err(e) if s.number("AGAIN") > 0 => {
                say(&format!("again {e}"));
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(e) => {
                say(&format!("failed {e}"));
                loop {
                    std::thread::park();
                }
            }
        }
    };
    say(&format!("connected {}", stream.local_addr().unwrap()));
    let (message, pause, ns) = (s.number("MESSAGE").max(1), s.number("PAUSE"), s.number("WORK"));
    let buffer = vec![0x5e; message as usize];
    let mut left = if s.number("LIMIT") == 0 { u64::MAX } else { s.number("LIMIT") };
    while left > 0 {
        work(message, ns);
        if stream.write_all(&buffer).is_err() {
            break;
        }
        left = left.saturating_sub(message);
        if pause > 0 {
            std::thread::sleep(Duration::from_micros(pause));
        }
    }
    loop {
        std::thread::park();
    }
}
