//! Endpoints in this process, over the loopback or on hosts of a lab, with certificates made for this run.
//!
//! How: a socket belongs to the network namespace it was opened in, so one process can hold the ends of many hosts.
//! Absent on purpose: ends on other machines.

use anyhow::Context;
use endpoint::{Config, Connection, Endpoint, Identity, Member};
use lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use std::net::{Ipv6Addr, SocketAddrV6};

const HERE: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);

/// What all ends agree on.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Longest UDP payload of a packet, bytes
    #[arg(long, default_value_t = 1448, value_parser = clap::value_parser!(u16).range(256..=65_000))]
    pub packet_bytes: u16,
    /// Without encryption, with an integrity check only
    #[arg(long)]
    pub trusted: bool,
    /// Between these hosts of a running lab, over all its planes, instead of over the loopback
    #[arg(long, num_args = 2.., value_name = "HOST")]
    pub between: Vec<String>,
    /// The lab, where several are up
    #[arg(long, value_name = "NAME", requires = "between")]
    pub lab: Option<String>,
}

/// An endpoint, and how the others find it.
pub(crate) struct End {
    pub endpoint: Endpoint,
    pub member: Member,
}

/// Both ends of a connection.
pub(crate) struct Pair {
    // connections before endpoints: they close first
    pub client: Connection,
    pub server: Connection,
    _ends: Vec<End>,
}

/// What awaits has hardly anything to do: the endpoints have threads of their own.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

fn identities(names: &[String]) -> anyhow::Result<Vec<Identity>> {
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("bench authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&key)?.pem();
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
    names
        .iter()
        .map(|name| {
            let mut params = named(name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            let key = KeyPair::generate()?;
            let cert = params.signed_by(&key, &issuer)?.pem();
            Ok(Identity::from_pem(&ca_pem, &cert, &key.serialize_pem())?)
        })
        .collect()
}

/// Endpoints: `count` over the loopback, or one on each host named.
pub(crate) fn open(args: &Args, count: usize) -> anyhow::Result<Vec<End>> {
    let config = |addresses| Config {
        datagram_bytes_max: args.packet_bytes,
        trusted: args.trusted,
        addresses,
        ..Config::default()
    };
    if args.between.is_empty() {
        let names: Vec<String> = (0..count).map(|i| format!("host{i}")).collect();
        let bind = |(identity, name): (Identity, String)| {
            let endpoint = Endpoint::bind(HERE, identity, config(vec![]))?;
            let addr = endpoint.local_addr();
            Ok(End { endpoint, member: Member { addr, name } })
        };
        return identities(&names)?.into_iter().zip(names).map(bind).collect();
    }
    let all = Lab::open(args.lab.as_deref(), crate::cmd::lab::exe()?)?.inspect();
    let bind = |(identity, name): (Identity, &String)| {
        let host = all.hosts.iter().find(|h| h.name == *name);
        let host =
            host.with_context(|| format!("the lab has no host {name:?}; expected one such as host0"))?;
        let addresses: Vec<Ipv6Addr> = host.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
        let first = addresses.first().copied().with_context(|| format!("{name} has no address"))?;
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        let _inside = kernel::netns::enter(&host.netns)?;
        let endpoint = Endpoint::bind(any, identity, config(addresses))?;
        let addr = SocketAddrV6::new(first, endpoint.local_addr().port(), 0, 0);
        Ok(End { endpoint, member: Member { addr, name: name.clone() } })
    };
    identities(&args.between)?.into_iter().zip(&args.between).map(bind).collect()
}

/// Two connected endpoints.
pub(crate) async fn pair(args: &Args) -> anyhow::Result<Pair> {
    let ends = open(args, 2)?;
    let [a, b] = &ends[..] else { anyhow::bail!("two hosts are needed, {} were named", ends.len()) };
    let (client, server) =
        tokio::try_join!(a.endpoint.connect(b.member.addr, &b.member.name), b.endpoint.accept())?;
    Ok(Pair { client, server, _ends: ends })
}
