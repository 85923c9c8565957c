//! The captures, and what nfdump makes of them.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The file of a capture.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(format!("{name}.pcap"))
}

/// UDP payloads of a capture. Those of tcpdump on loopback begin with Ethernet, ours with IPv4.
pub fn datagrams(name: &str) -> Vec<Vec<u8>> {
    let file = std::fs::read(path(name)).unwrap();
    let mut reader = pcap_file::pcap::PcapReader::new(&file[..]).unwrap();
    let ethernet = reader.header().datalink == pcap_file::DataLink::ETHERNET;
    let mut all = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let skip = if ethernet { 14 } else { 0 } + 28;
        all.push(packet.unwrap().data[skip..].to_vec());
    }
    all
}

/// Every capture with its name.
pub fn captures() -> Vec<(String, Vec<Vec<u8>>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "pcap"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut all: Vec<_> = names.into_iter().map(|n| (n.clone(), datagrams(&n))).collect();
    all.extend(crate::edges::all());
    all
}

/// A capture as a file for a program to read: the one there is, or one made of datagrams made by hand.
pub fn file(name: &str, datagrams: &[Vec<u8>], dir: &Path) -> PathBuf {
    if path(name).exists() {
        return path(name);
    }
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join(format!("{name}.pcap"));
    let out = std::fs::File::create(&path).unwrap();
    let header = pcap_file::pcap::PcapHeader { datalink: pcap_file::DataLink::IPV4, ..Default::default() };
    let mut writer = pcap_file::pcap::PcapWriter::with_header(out, header).unwrap();
    for d in datagrams {
        let (ip, udp) = ((d.len() + 28) as u16, (d.len() + 8) as u16);
        let mut packet = vec![0x45, 0];
        packet.extend(ip.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        packet.extend(4_010u16.to_be_bytes());
        packet.extend(4_010u16.to_be_bytes());
        packet.extend(udp.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(d);
        writer
            .write_packet(&pcap_file::pcap::PcapPacket::new(Duration::ZERO, packet.len() as u32, &packet))
            .unwrap();
    }
    path
}

/// Sends datagrams to nfcapd and reads what it kept: addresses, ports, protocol, flags, packets, bytes.
pub fn nfdump(dir: &Path, datagrams: &[Vec<u8>]) -> Option<Vec<String>> {
    std::fs::create_dir_all(dir).unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Command::new("nfcapd")
        .args(["-l", dir.to_str().unwrap(), "-b", "127.0.0.1", "-p", &port.to_string(), "-t", "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut nfcapd = match started {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: nfcapd: {e}");
            return None;
        }
    };
    // its socket is there when the kernel's table says so
    let hex = format!(":{port:04X} ");
    while !std::fs::read_to_string("/proc/net/udp").unwrap().contains(&hex) {
        assert!(nfcapd.try_wait().unwrap().is_none(), "nfcapd ended");
        std::thread::yield_now();
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in datagrams {
        socket.send_to(datagram, ("127.0.0.1", port)).unwrap();
    }
    // nothing waits in its buffer any more: it has taken all
    let waiting = || {
        let table = std::fs::read_to_string("/proc/net/udp").unwrap();
        let line = table.lines().find(|l| l.contains(&hex)).unwrap_or_default().to_owned();
        !line.is_empty() && !line.contains(":00000000 00:")
    };
    while waiting() {
        std::thread::yield_now();
    }
    std::thread::park_timeout(Duration::from_millis(300));
    Command::new("kill").arg(nfcapd.id().to_string()).status().unwrap();
    nfcapd.wait().unwrap();
    let format = "fmt:%sa %da %sp %dp %pr %flg %pkt %byt";
    let out = Command::new("nfdump")
        .args(["-R", dir.to_str().unwrap(), "-q", "-N", "-6", "-o", format])
        .output()
        .ok()?;
    std::fs::remove_dir_all(dir).unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    Some(text.lines().filter(|l| !l.trim().is_empty()).map(normal).collect())
}

/// A line of nfdump's as ours: flags as a number, protocol as a number, ICMP type and code as a port.
fn normal(line: &str) -> String {
    let parts: Vec<_> = line.split_whitespace().collect();
    let [sa, da, sp, dp, pr, flags, packets, bytes] = parts[..] else { panic!("nfdump said {line:?}") };
    let protocol = match pr {
        "TCP" => "6",
        "UDP" => "17",
        "ICMP" => "1",
        "ICMP6" => "58",
        other => other,
    };
    let bits = flags.chars().rev().enumerate().fold(0, |n, (i, c)| if c == '.' { n } else { n | 1 << i });
    let dp = match dp.split_once('.') {
        Some((kind, code)) => (kind.parse::<u32>().unwrap() * 256 + code.parse::<u32>().unwrap()).to_string(),
        None => dp.to_owned(),
    };
    let bits = if protocol == "6" { bits } else { 0 };
    format!("{sa} {da} {sp} {dp} {protocol} {bits} {packets} {bytes}")
}
