//! What sockets, copies and cipher cost without any protocol: the ceiling of the transport on this machine.
//!
//! How: one thread sends bursts over loopback and then takes them in, so that nobody waits for anybody and the processor
//! time is that of both ends. Each datagram is what the transport's would be: header, payload copied in, sealed, sent,
//! received, opened where it lies, copied out.

use anyhow::{Result, ensure};
use endpoint::Ring;
use kernel::poll::readable;
use kernel::udp::{Outgoing, Received, Route, UdpOptions, UdpSocket};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;
use wire::Nanos;
use wire::transport::packet::encode;
use wire::transport::protection::{Cipher, Protection, Secret};
use wire::transport::{ConnectionId, Data, DataFlags, Ev, MessageId, Packet, Target};

/// Header of a chunk of such a message.
const HEADER: usize = 43;
/// Bytes on the way before they are taken in: less than a receive buffer.
const ROUND_BYTES: usize = 512 << 10;

fn chunk(number: u64, offset: u64, chunk_bytes: u16, message_bytes: u64) -> Packet {
    Packet::Data(Data {
        connection: ConnectionId(2),
        number,
        floor: number.saturating_sub(1000),
        message: MessageId(0),
        message_bytes,
        offset,
        bytes: chunk_bytes,
        chunk_bytes,
        target: Target::Tagged { tag: 1 },
        ev: Ev(0),
        ev_seq: number as u32,
        demand: 0,
        sent_ns: 0,
        flags: DataFlags(0),
    })
}

/// Sends `bytes` in datagrams of `packet` bytes.
pub fn run(packet: u16, bytes: u64) -> Result<()> {
    // as many as fit into what the kernel takes for one packet, as the endpoint does
    let segments = (usize::from(u16::MAX) / usize::from(packet)).clamp(1, 16);
    let here = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let options = UdpOptions { hop_by_hop: false, hop_limit: false, ..UdpOptions::default() };
    let (a, b) = (UdpSocket::bind(here, options)?, UdpSocket::bind(here, options)?);
    a.use_everything();
    b.use_everything();
    let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, b.port()?, 0, 0);
    let end = |first| {
        let secret = Secret([1; 32]);
        Protection::of_connection(Ring, Cipher::Aes128Gcm, &secret, ConnectionId(1), ConnectionId(2), first)
    };
    let (mut seal, mut open) = (end(true), end(false));
    let chunk_bytes = packet - HEADER as u16 - Cipher::Aes128Gcm.tag_bytes() as u16;
    let message_bytes = 64u64 << 20;
    let source: Vec<u8> = (0..message_bytes as usize).map(|i| i as u8).collect();
    let mut sink = vec![0; source.len()];
    let chunks = message_bytes / u64::from(chunk_bytes);
    let (mut out, mut received) = (Outgoing::default(), Received::with(16, 65_535));
    let (mut number, mut arrived) = (0u64, 0u64);
    let mut header = Vec::new();
    encode(&chunk(0, 0, chunk_bytes, message_bytes), 0, false, &mut header)?;
    let segment = (header.len() + usize::from(chunk_bytes) + Cipher::Aes128Gcm.tag_bytes()) as u16;
    while arrived < bytes {
        out.clear();
        let first = number;
        let mut failed = None;
        while out.bytes() < ROUND_BYTES {
            let route = Route { to, from: None, traffic_class: 2, flow_label: 1 + (number as u32 / 16) % 64 };
            out.push_segments(route, if segments > 1 { segment } else { 0 }, |buf| {
                for _ in 0..segments {
                    let offset = number % chunks * u64::from(chunk_bytes);
                    let payload = &source[offset as usize..][..usize::from(chunk_bytes)];
                    let sealed =
                        seal.seal(Nanos(0), &chunk(number, offset, chunk_bytes, message_bytes), payload, buf);
                    failed = failed.or(sealed.err());
                    number += 1;
                }
            });
        }
        ensure!(failed.is_none(), "a packet could not be sealed: {failed:?}");
        let count = out.len();
        ensure!(a.send(&mut out)? == count, "the kernel did not take every burst");
        let mut missing = number - first;
        while missing > 0 {
            if b.receive(&mut received)? == 0 {
                readable(&[b.as_fd()], None)?;
            }
            for (_, datagram) in received.iter_mut() {
                let opened = open.open(Nanos(0), datagram).map_err(|e| anyhow::anyhow!("{e:?}"))?;
                let Packet::Data(d) = opened.packet else { continue };
                sink[d.offset as usize..][..opened.payload.len()].copy_from_slice(opened.payload);
                arrived += opened.payload.len() as u64;
                missing -= 1;
            }
        }
    }
    ensure!(
        sink[..usize::from(chunk_bytes)] == source[..usize::from(chunk_bytes)],
        "the bytes are not the same"
    );
    Ok(())
}
