//! Bursts between two network namespaces: across a veth as one packet, and cut into wire segments before it.
#![allow(clippy::unwrap_used)]

use kernel::capabilities::{Feature, missing};
use kernel::link::{self, End};
use kernel::netlink::{Batch, Netlink};
use kernel::netns::{self, Netns};
use kernel::offload::set_tx_offload;
use kernel::poll::readable;
use kernel::udp::{Offered, Outgoing, Received, Route, UdpOptions, UdpSocket};
use selvedge_kernel as kernel;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd;

const ADDRS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)];
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// Number of the interface in both namespaces.
const INDEX: u32 = 2;
const BURSTS: u32 = 20;
const SEGMENTS: u32 = 16;
/// Payload of a segment: 1,500 bytes of MTU less 48 of headers.
const SEGMENT: u16 = 1_452;

/// Two namespaces with a veth between them, up.
fn two_hosts() -> [Netns; 2] {
    let spaces = [0; 2].map(|_| netns::anonymous().unwrap());
    let [a, b] =
        [0, 1].map(|i: usize| End { netns: spaces[i].as_fd(), name: "wire", index: INDEX, mac: MACS[i] });
    let mut nursery = netns::anonymous().unwrap().run(Netlink::route).unwrap().unwrap();
    let mut batch = Batch::new();
    link::veth(&mut batch, a, b, 1_500).unwrap();
    nursery.apply(batch).unwrap();
    for (i, space) in spaces.iter().enumerate() {
        space
            .run(|| {
                let mut batch = Batch::new();
                link::set_up(&mut batch, INDEX, true);
                link::address(&mut batch, INDEX, ADDRS[i], 64);
                link::neighbour(&mut batch, INDEX, ADDRS[1 - i], MACS[1 - i]);
                Netlink::route().unwrap().apply(batch).unwrap();
            })
            .unwrap();
    }
    for space in &spaces {
        let running = || {
            let links = link::list(&mut Netlink::route().unwrap()).unwrap();
            links.iter().any(|l| l.index == INDEX && l.running)
        };
        while !space.run(running).unwrap() {
            std::thread::yield_now();
        }
    }
    spaces
}

#[test]
fn bursts_keep_label_and_mark_on_the_wire() {
    let lacking = missing(&[Feature::Configure, Feature::Namespaces]);
    if let Some(feature) = lacking.first() {
        println!("skipped: it needs {}", feature.need());
        return;
    }
    for cut in [false, true] {
        let spaces = two_hosts();
        if cut && let Err(error) = spaces[0].run(|| set_tx_offload(INDEX, false, false)).unwrap() {
            println!("skipped: offloads cannot be switched off here: {error}");
            return;
        }
        let sockets = [0, 1].map(|i: usize| {
            let here = SocketAddrV6::new(ADDRS[i], 0, 0, 0);
            spaces[i].run(|| UdpSocket::bind(here, UdpOptions::default())).unwrap().unwrap()
        });
        sockets.iter().for_each(|s| assert_eq!(s.use_everything(), Offered::ALL));
        let to = SocketAddrV6::new(ADDRS[1], sockets[1].port().unwrap(), 0, 0);
        let mut out = Outgoing::default();
        for burst in 0..BURSTS {
            // every other burst is marked on its way, as it were
            let traffic_class = 2 + (burst % 2) as u8;
            let route = Route { to, from: Some(ADDRS[0]), traffic_class, flow_label: 0x4_2000 + burst };
            out.push_segments(route, SEGMENT, |buf| {
                for segment in 0..SEGMENTS {
                    let start = buf.len();
                    buf.resize(start + usize::from(SEGMENT), burst as u8);
                    buf[start] = segment as u8;
                }
            });
        }
        assert_eq!(sockets[0].send(&mut out), Ok(BURSTS as usize));
        let mut next = vec![0; BURSTS as usize];
        let (mut received, mut got) = (Received::with(16, 65_535), 0);
        while got < BURSTS * SEGMENTS {
            let ready = readable(&[sockets[1].as_fd()], Some(std::time::Duration::from_secs(20))).unwrap();
            assert_ne!(ready, 0, "{got} of {} came, cut: {cut}", BURSTS * SEGMENTS);
            sockets[1].receive(&mut received).unwrap();
            for d in received.iter() {
                let burst = d.flow_label - 0x4_2000;
                assert_eq!((d.from, d.to, d.payload.len()), (ADDRS[0], ADDRS[1], usize::from(SEGMENT)));
                assert_eq!(u32::from(d.traffic_class), 2 + burst % 2, "cut: {cut}");
                assert_eq!(u32::from(d.payload[0]), next[burst as usize], "in order within its path");
                assert!(d.payload[1..].iter().all(|b| u32::from(*b) == burst));
                assert!(d.at_ns > 0 && d.ifindex == INDEX && !d.truncated);
                next[burst as usize] += 1;
                got += 1;
            }
        }
        assert_eq!(sockets[0].offered(), Offered::ALL);
    }
}
