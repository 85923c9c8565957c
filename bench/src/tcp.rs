//! Kernel TCP, by iperf3 from Debian.

use anyhow::{Context, Result, ensure};
use std::net::{Ipv6Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Sends `bytes` through one TCP connection.
pub fn run(bytes: u64) -> Result<()> {
    // iperf3 takes no port 0, so a free one is looked up.
    let port = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?.port().to_string();
    let mut server = Command::new("iperf3")
        .args(["-s", "-1", "-p", &port])
        .stdout(Stdio::null())
        .spawn()
        .context("iperf3 cannot be started; Debian has it in the package `iperf3`")?;
    let begin = Instant::now();
    let sent = loop {
        let client =
            Command::new("iperf3").args(["-c", "::1", "-p", &port, "-n", &bytes.to_string()]).output()?;
        // the server may not be listening yet
        if client.status.success() || begin.elapsed() > Duration::from_secs(3) {
            break client;
        }
    };
    if !sent.status.success() {
        server.kill()?;
    }
    server.wait()?;
    ensure!(sent.status.success(), "iperf3: {}", String::from_utf8_lossy(&sent.stderr).trim());
    Ok(())
}
