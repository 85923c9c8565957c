//! Threads that block: they drive their endpoints themselves, many at once, and give them back.
#![allow(clippy::unwrap_used)]

mod certificates;

use certificates::hosts;
use selvedge_endpoint::{Config, Connection, Endpoint, EndpointError};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::mpsc;
use wire::transport::CloseReason;

const HERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

fn pair() -> ([Endpoint; 2], Connection, Connection) {
    let ends = hosts(["host1", "host2"]).map(|i| Endpoint::bind(HERE, i, Config::default()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let [a, b] = &ends;
    let (client, server) =
        runtime.block_on(async { tokio::join!(a.connect(b.local_addr(), "host2"), b.accept()) });
    (ends, client.unwrap(), server.unwrap())
}

#[test]
fn many_threads_share_an_endpoint_and_every_message_comes_to_its_own() {
    const THREADS: u64 = 6;
    const TURNS: u64 = 300;
    let (_ends, client, server) = pair();
    std::thread::scope(|scope| {
        for tag in 0..THREADS {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                for _ in 0..TURNS {
                    let got = server.receive_blocking(tag).unwrap();
                    server.post(tag, got).unwrap();
                }
            });
            scope.spawn(move || {
                for turn in 0..TURNS {
                    // now and then more than a packet, and one that is waited for
                    let bytes =
                        vec![turn as u8; if turn % 16 == tag { 30_000 } else { 8 + turn as usize % 64 }];
                    if turn % 5 == 0 {
                        client.send_blocking(tag, bytes.clone()).unwrap();
                    } else {
                        client.post(tag, bytes.clone()).unwrap();
                    }
                    assert!(client.receive_blocking(tag).unwrap() == bytes);
                }
            });
        }
    });
    let counters = client.post(0, vec![]);
    assert!(matches!(counters, Err(EndpointError::Refused(_))), "nothing is no message: {counters:?}");
}

/// A posted message's ACK goes with the answer; where none comes, by itself, and where the caller is away, by the
/// endpoint's own thread.
#[test]
fn what_is_posted_is_acknowledged_whether_somebody_blocks_or_not() {
    let (_ends, client, server) = pair();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for turn in 0..50u64 {
        client.post(1, vec![7; 64]).unwrap();
        assert_eq!(server.receive_blocking(1).unwrap(), [7; 64]);
        // nobody blocks now
        let counters = loop {
            let counters = runtime.block_on(client.counters()).unwrap();
            if counters.machine.acknowledged == counters.machine.sent {
                break counters;
            }
            std::thread::yield_now();
        };
        assert_eq!(counters.machine.messages_sent, turn + 1);
    }
}

#[test]
fn who_blocks_is_told_of_the_end_whoever_ends_it() {
    let (ends, client, server) = pair();
    let [a, b] = ends;
    let (says, hears) = mpsc::channel();
    std::thread::scope(|scope| {
        for tag in 0..3 {
            let (server, says) = (&server, says.clone());
            scope.spawn(move || {
                says.send(()).unwrap();
                assert_eq!(
                    server.receive_blocking(tag),
                    Err(EndpointError::Closed { reason: CloseReason::Done })
                );
            });
        }
        (0..3).for_each(|_| hears.recv().unwrap());
        // the peer closes
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(client.close()).unwrap();
    });
    assert!(matches!(server.post(1, vec![1]), Err(EndpointError::Closed { .. })));
    // its own endpoint ends while two threads wait
    let (client, server) = {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (c, s) = runtime.block_on(async { tokio::join!(a.connect(b.local_addr(), "host2"), b.accept()) });
        (c.unwrap(), s.unwrap())
    };
    std::thread::scope(|scope| {
        for tag in 0..2 {
            let (server, says) = (&server, says.clone());
            scope.spawn(move || {
                says.send(()).unwrap();
                assert!(server.receive_blocking(tag).is_err());
            });
        }
        (0..2).for_each(|_| hears.recv().unwrap());
        drop(b);
    });
    assert_eq!(server.receive_blocking(9), Err(EndpointError::Ended));
    drop((client, a));
}
