//! Frames made by hand, and a way to put them on a cable.

use crate::pair::{Pair, sh};
use std::io::Write;
use std::process::{Command, Stdio};

const SEND: &str = "import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for line in sys.stdin:
    count, frame = line.split()
    for _ in range(int(count)):
        s.send(bytes.fromhex(frame))
";

/// An interface's hardware address.
pub fn mac(pair: &Pair, side: usize) -> Vec<u8> {
    let text = sh(&format!("ip netns exec {} cat /sys/class/net/eth0/address", pair.names[side]));
    text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
}

/// Sends frames on side 0's interface, each so many times.
pub fn send(pair: &Pair, frames: &[(usize, Vec<u8>)]) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &pair.names[0], "python3", "-c", SEND])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    for (count, frame) in frames {
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(to, "{count} {hex}").unwrap();
    }
    drop(to);
    assert!(child.wait().unwrap().success());
}

/// The Internet checksum (RFC 1071).
pub fn sum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum >> 16 > 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub fn ethernet(to: &[u8], kind: u16, payload: &[u8]) -> Vec<u8> {
    [to, &[2, 0, 0, 0, 0, 9], &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a right checksum.
pub fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let mut b = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    b.extend(from);
    b.extend(to);
    let s = sum(&b);
    b[10..12].copy_from_slice(&s);
    b.extend(payload);
    b
}

/// What TCP and UDP put their addresses into.
fn pseudo(protocol: u8, from: [u8; 4], to: [u8; 4], segment: &[u8]) -> [u8; 2] {
    let length = (segment.len() as u16).to_be_bytes();
    sum(&[&from[..], &to[..], &[0, protocol], &length[..], segment].concat())
}

/// A TCP segment without data, with a right checksum.
pub fn tcp(from: [u8; 4], to: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
    let mut b = [&40_000u16.to_be_bytes()[..], &port.to_be_bytes(), &[0, 0, 0, 7, 0, 0, 0, 0]].concat();
    b.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    let s = pseudo(6, from, to, &b);
    b[16..18].copy_from_slice(&s);
    ipv4(6, from, to, &b)
}

/// A UDP datagram with a right checksum.
pub fn udp(from: [u8; 4], to: [u8; 4], port: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len() as u16).to_be_bytes();
    let mut b = [&40_000u16.to_be_bytes()[..], &port.to_be_bytes(), &length, &[0, 0], data].concat();
    let s = pseudo(17, from, to, &b);
    b[6..8].copy_from_slice(&s);
    ipv4(17, from, to, &b)
}
