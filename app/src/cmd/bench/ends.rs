//! Endpoints in this process, over the loopback or on hosts of a lab, with certificates made for this run.
//!
//! How: a socket belongs to the network namespace it was opened in, so one process can hold the ends of many hosts. In a
//! lab the ends know the fabric's paths: EVs are exact where the lab is source routed, and every host's agent is told
//! what became of the packets.
//! Absent on purpose: ends on other machines.

use anyhow::Context;
use endpoint::trace::Tracer;
use endpoint::{Config, Connection, Endpoint, FabricPath, Identity, Member, PathTable};
use fabric::{Fabric, Mode};
use lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;

/// Interval of an event file.
const TRACE_EVERY: wire::Nanos = wire::Nanos(1_000_000);

/// What all ends agree on.
#[derive(clap::Args)]
// the group would else be called like the one it is flattened into
#[group(skip)]
pub(crate) struct Args {
    /// Longest UDP payload of a packet, bytes
    #[arg(long, default_value_t = 1448, value_parser = clap::value_parser!(u16).range(256..=65_000))]
    pub packet_bytes: u16,
    /// Speed of a host's ports together, Mbit/s, where it is far below 25,000: windows and grants are made for it
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=800_000))]
    pub port_mbit: Option<u64>,
    /// Without encryption, with an integrity check only
    #[arg(long)]
    pub trusted: bool,
    /// Write what every connection does to this file, for `selvedge timeline`
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
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
    ends: Vec<End>,
}

impl Pair {
    /// Another connection between the same ends.
    pub async fn another(&self) -> anyhow::Result<(Connection, Connection)> {
        between(&self.ends).await
    }
}

async fn between(ends: &[End]) -> anyhow::Result<(Connection, Connection)> {
    let [a, b] = ends else { anyhow::bail!("two hosts are needed, {} were named", ends.len()) };
    Ok(tokio::try_join!(a.endpoint.connect(b.member.addr, &b.member.name), b.endpoint.accept())?)
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

/// Where an end is.
pub(crate) struct Host {
    pub name: String,
    /// One for each plane; of the loopback where it is no host of a lab.
    pub addresses: Vec<Ipv6Addr>,
    netns: Option<String>,
    /// The fabric's paths to the others, and the socket of its agent.
    paths: Option<Arc<PathTable>>,
    report_to: Option<PathBuf>,
}

impl Host {
    /// Its address in the first plane.
    pub fn address(&self) -> Ipv6Addr {
        self.addresses.first().copied().unwrap_or(Ipv6Addr::LOCALHOST)
    }

    /// Does something, such as opening a socket, in its network namespace.
    pub fn inside<T>(&self, what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let _inside = self.netns.as_deref().map(kernel::netns::enter).transpose()?;
        what()
    }
}

/// `count` places on the loopback, or the hosts named.
pub(crate) fn hosts(args: &Args, count: usize) -> anyhow::Result<Vec<Host>> {
    if args.between.is_empty() {
        let here = |i| Host {
            name: format!("host{i}"),
            addresses: vec![Ipv6Addr::LOCALHOST],
            netns: None,
            paths: None,
            report_to: None,
        };
        return Ok((0..count).map(here).collect());
    }
    let lab = Lab::open(args.lab.as_deref(), crate::cmd::lab::exe()?)?;
    let all = lab.inspect();
    let find = |name: &String| {
        let host = all.hosts.iter().find(|h| h.name == *name);
        let host =
            host.with_context(|| format!("the lab has no host {name:?}; expected one such as host0"))?;
        let addresses: Vec<Ipv6Addr> = host.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
        anyhow::ensure!(!addresses.is_empty(), "{name} has no address");
        Ok(Host {
            name: name.clone(),
            addresses,
            netns: Some(host.netns.clone()),
            paths: Some(Arc::new(paths(lab.fabric(), name, &args.between))),
            report_to: lab.transport_socket(name),
        })
    };
    args.between.iter().map(find).collect()
}

/// An endpoint on each of some hosts.
pub(crate) fn open_on(args: &Args, hosts: &[Host]) -> anyhow::Result<Vec<End>> {
    let names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
    let trace = args.trace.as_deref().map(|file| {
        Tracer::create(file, TRACE_EVERY).with_context(|| format!("cannot write {}", file.display()))
    });
    let trace = trace.transpose()?;
    let bind = |(identity, host): (Identity, &Host)| {
        let lab = host.netns.is_some();
        let usual = Config::default();
        let rate_bps = args.port_mbit.map_or(usual.transport.rate_bps, |m| m * 1_000_000);
        let mut config = Config {
            transport: transport::Config { rate_bps, ..usual.transport },
            paths: host.paths.clone(),
            report_to: host.report_to.clone(),
            datagram_bytes_max: args.packet_bytes,
            trusted: args.trusted,
            addresses: if lab { host.addresses.clone() } else { vec![] },
            connections_max: 65_536,
            trace: trace.clone(),
            ..usual
        };
        config.transport.evs = host.paths.as_deref().map_or(config.transport.evs, evs);
        let ip = if lab { Ipv6Addr::UNSPECIFIED } else { Ipv6Addr::LOCALHOST };
        let endpoint =
            host.inside(|| Ok(Endpoint::bind(SocketAddrV6::new(ip, 0, 0, 0), identity, config)?))?;
        let addr = SocketAddrV6::new(host.address(), endpoint.local_addr().port(), 0, 0);
        Ok(End { endpoint, member: Member { addr, name: host.name.clone() } })
    };
    identities(&names)?.into_iter().zip(hosts).map(bind).collect()
}

/// Endpoints: `count` over the loopback, or one on each host named.
pub(crate) fn open(args: &Args, count: usize) -> anyhow::Result<Vec<End>> {
    open_on(args, &hosts(args, count)?)
}

/// Flow labels of exact paths: a lane each.
const LABELS: u32 = 0x8_0000;

/// The fabric's paths from a host to others, as an endpoint takes them.
fn paths(fabric: &Fabric, from: &str, to: &[String]) -> PathTable {
    let nics = |name: &str| fabric.host_by_name(name).into_iter().flat_map(|h| fabric.host_nics(h));
    let mut table = PathTable { epoch: fabric.epoch, ..PathTable::default() };
    for nic in nics(from) {
        table.uplinks.push(fabric.ifname(fabric.access_link(nic)));
        for peer in to.iter().filter(|name| *name != from).flat_map(|name| nics(name)) {
            let ways = fabric.paths(nic, peer).filter_map(|path| {
                let (_, _, lane) = fabric.path_parts(path)?;
                let container = match fabric.mode {
                    Mode::Srv6 => fabric.path_container(path),
                    Mode::Ecmp => None,
                };
                let (from, to) = (fabric.nic_addr(nic), fabric.nic_addr(peer));
                Some(FabricPath { from, to, path, flow_label: LABELS + lane, container })
            });
            table.paths.extend(ways);
        }
    }
    table
}

/// EVs for as many exact paths as there are to any one peer; by flow label as many as an endpoint has by itself.
fn evs(table: &PathTable) -> u16 {
    let mut most = BTreeMap::<(Ipv6Addr, Ipv6Addr), u16>::new();
    for p in table.paths.iter().filter(|p| p.container.is_some()) {
        let lanes = most.entry((p.from, p.to)).or_default();
        *lanes = lanes.saturating_add(1);
    }
    match most.values().max() {
        Some(lanes) => (usize::from(*lanes) * table.uplinks.len().max(1)).clamp(1, 128) as u16,
        None => Config::default().transport.evs,
    }
}

/// Two connected endpoints.
pub(crate) async fn pair(args: &Args) -> anyhow::Result<Pair> {
    let ends = open(args, 2)?;
    let (client, server) = between(&ends).await?;
    Ok(Pair { client, server, ends })
}
