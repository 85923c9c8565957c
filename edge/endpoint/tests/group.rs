//! Ranks on loopback do every collective, with the results they have to have.
#![allow(clippy::unwrap_used)]

mod certificates;

use certificates::hosts;
use selvedge_endpoint::{Config, Endpoint, Group, GroupError, Member};
use std::net::{Ipv6Addr, SocketAddrV6};
use transport::collective::{Element, Rank, Shape};

const HERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
const RANKS: usize = 5;
const ELEMENTS: usize = 10_000;

fn floats(rank: usize) -> Vec<u8> {
    (0..ELEMENTS).flat_map(|i| (((rank * 3 + i) % 7) as f32).to_le_bytes()).collect()
}

fn sum() -> Vec<u8> {
    let mut all = floats(0);
    (1..RANKS).for_each(|r| Element::F32.add(&mut all, &floats(r)));
    all
}

fn members() -> (Vec<Endpoint>, Vec<Member>) {
    let names = ["host0", "host1", "host2", "host3", "host4"];
    let ends = hosts(names).map(|identity| Endpoint::bind(HERE, identity, Config::default()).unwrap());
    let members = ends.iter().zip(names).map(|(e, n)| Member { addr: e.local_addr(), name: n.to_owned() });
    let members = members.collect();
    (ends.into(), members)
}

/// One rank's part of the test.
async fn rank(endpoint: Endpoint, members: Vec<Member>, own: usize) {
    let mut group = Group::join(&endpoint, &members, Rank(own as u32)).await.unwrap();
    assert_eq!((group.rank(), group.ranks()), (Rank(own as u32), RANKS as u32));
    for shape in [Shape::Ring, Shape::Tree] {
        let mut data = floats(own);
        group.all_reduce(Element::F32, shape, &mut data).await.unwrap();
        assert!(data == sum(), "{shape:?}");
        let mut data = floats(own);
        group.broadcast(Rank(3), shape, &mut data).await.unwrap();
        assert!(data == floats(3), "{shape:?}");
    }
    let mut data = floats(own);
    let part = group.reduce_scatter(Element::F32, &mut data).await.unwrap();
    assert!(data[part.clone()] == sum()[part]);
    let mut data = floats(own);
    group.all_gather(Element::F32, &mut data).await.unwrap();
    let width = data.len() / RANKS;
    assert!((0..RANKS).all(|r| data[r * width..][..width] == floats(r)[r * width..][..width]));
    let mut data = vec![0; data.len()];
    group.all_to_all(Element::F32, &floats(own), &mut data).await.unwrap();
    assert!((0..RANKS).all(|r| data[r * width..][..width] == floats(r)[own * width..][..width]));
    group.barrier().await.unwrap();
}

#[tokio::test]
async fn every_collective_among_real_endpoints() {
    let (ends, members) = members();
    let ranks: Vec<_> =
        ends.into_iter().enumerate().map(|(i, e)| tokio::spawn(rank(e, members.clone(), i))).collect();
    for r in ranks {
        r.await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let (ends, mut members) = members();
    members.truncate(2);
    let (a, b) =
        tokio::join!(Group::join(&ends[0], &members, Rank(0)), Group::join(&ends[1], &members, Rank(1)));
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    assert_eq!(
        a.all_reduce(Element::F32, Shape::Ring, &mut [0; 6]).await,
        Err(GroupError::Elements { bytes: 6, element: 4 })
    );
    assert!(matches!(
        a.all_to_all(Element::F32, &[0; 8], &mut [0; 4]).await,
        Err(GroupError::Unequal { sent: 8, received: 4 })
    ));
    // one sums 8 bytes while the other sums 16
    let (mut short, mut long) = ([0u8; 8], [0u8; 16]);
    let (one, _) = tokio::join!(
        a.all_reduce(Element::F32, Shape::Ring, &mut short),
        b.all_reduce(Element::F32, Shape::Ring, &mut long)
    );
    assert_eq!(one, Err(GroupError::Length { rank: 1, got: 8, want: 4 }));
    members[1].name = "host0".to_owned();
    let same = Group::join(&ends[0], &members, Rank(0)).await;
    assert_eq!(same.err(), Some(GroupError::SameName { name: "host0".to_owned() }));
}
