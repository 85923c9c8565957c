//! What arrives when: one transport between two network namespaces for some seconds, and how much the receiving
//! application had at each moment. `cargo xtask bench failure` breaks a path meanwhile.
//!
//! How: both ends are in this process, each with its sockets in its own namespace, so both read one clock. Everything is
//! sent as fast as the transport takes it, in messages of 64 KiB where it knows messages. Prints one line of JSON:
//! milliseconds of the Unix clock and bytes, one entry for each millisecond in which something arrived.
//!
//! Absent on purpose: what breaks, and any judgement.

#[path = "../tls.rs"]
#[allow(dead_code)] // s2n-quic alone reads PEM
mod tls;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use endpoint::{Config, Endpoint, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of a message, and of a write into a stream.
const PIECE: usize = 64 << 10;
/// Messages of ours on their way at once.
const UNDER_WAY: usize = 32;

/// Arrivals of one transport between two network namespaces.
#[derive(Parser)]
struct Args {
    transport: Transport,
    /// Namespace of the sender
    #[arg(long)]
    from: String,
    /// Its addresses, one a plane
    #[arg(long, num_args = 1.., required = true)]
    from_address: Vec<Ipv6Addr>,
    /// Namespace of the receiver
    #[arg(long)]
    to: String,
    /// Its addresses, one a plane
    #[arg(long, num_args = 1.., required = true)]
    to_address: Vec<Ipv6Addr>,
    /// UDP payload of a packet, bytes; TCP takes no notice
    #[arg(long, default_value_t = 1400)]
    packet_bytes: u16,
    /// How long to send
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// Ours
    Selvedge,
    /// QUIC, one path
    Quinn,
    /// Kernel TCP, one path
    Tcp,
    /// Kernel MPTCP (RFC 8684) over the paths its path manager was told of
    Mptcp,
}

/// What arrived in each millisecond.
#[derive(Default)]
struct Arrivals(Vec<(u64, u64)>);

impl Arrivals {
    fn add(&mut self, bytes: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        match self.0.last_mut() {
            Some((at, sum)) if *at == now => *sum += bytes as u64,
            _ => self.0.push((now, bytes as u64)),
        }
    }
}

/// Something opened inside a namespace.
fn inside<T>(name: &str, open: impl FnOnce() -> Result<T>) -> Result<T> {
    let _inside = kernel::netns::enter(name)?;
    open()
}

fn tcp(args: &Args, protocol: Protocol) -> Result<Arrivals> {
    let listener = inside(&args.to, || {
        let s =
            Socket::new(Domain::IPV6, Type::STREAM, Some(protocol)).context("a socket of that protocol")?;
        // every address of the host: MPTCP's further subflows come to others than the first
        s.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0).into())?;
        s.listen(1)?;
        Ok(std::net::TcpListener::from(s))
    })?;
    let to = SocketAddrV6::new(args.to_address[0], listener.local_addr()?.port(), 0, 0);
    let seconds = args.seconds;
    let receive = std::thread::spawn(move || -> Result<Arrivals> {
        let (mut stream, _) = listener.accept()?;
        // the news that the sender is gone may be lost where the path is full or dead
        let end = Instant::now() + Duration::from_secs_f64(seconds + 0.5);
        let (mut arrivals, mut buffer) = (Arrivals::default(), vec![0; 1 << 20]);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(arrivals),
                Ok(n) => arrivals.add(n),
                // the sender left what was still under way
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(arrivals),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(arrivals),
                Err(e) => return Err(e.into()),
            }
        }
    });
    let mut stream: TcpStream = inside(&args.from, || {
        let s = Socket::new(Domain::IPV6, Type::STREAM, Some(protocol))?;
        s.bind(&SocketAddrV6::new(args.from_address[0], 0, 0, 0).into())?;
        s.connect(&to.into())?;
        Ok(s.into())
    })?;
    let (piece, begin) = (vec![7u8; PIECE], Instant::now());
    // a path that died must not hold this up for ever
    stream.set_write_timeout(Some(Duration::from_secs_f64(args.seconds)))?;
    while begin.elapsed().as_secs_f64() < args.seconds {
        if let Err(e) = stream.write_all(&piece) {
            eprintln!("arrivals: the sender gave up: {e}");
            break;
        }
    }
    // what is still under way does not matter
    if let Err(e) = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        eprintln!("arrivals: the sender was gone already: {e}");
    }
    drop(stream);
    receive.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
}

async fn quinn(args: &Args) -> Result<Arrivals> {
    let (server, client) = tls::Identity::new()?.configs()?;
    let mut transport = quinn::TransportConfig::default();
    transport.initial_mtu(args.packet_bytes).min_mtu(args.packet_bytes.min(1400)).mtu_discovery_config(None);
    transport
        .stream_receive_window((16u32 << 20).into())
        .receive_window((16u32 << 20).into())
        .send_window(16 << 20);
    let transport = Arc::new(transport);
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport.clone());
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client)?;
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    let open = |netns: &str, addr: Ipv6Addr, server| {
        inside(netns, || {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(addr.into(), 0))?;
            Ok(quinn::Endpoint::new(
                quinn::EndpointConfig::default(),
                server,
                socket,
                Arc::new(quinn::TokioRuntime),
            )?)
        })
    };
    let receiver = open(&args.to, args.to_address[0], Some(server))?;
    let sender = open(&args.from, args.from_address[0], None)?;
    let to = receiver.local_addr()?;
    let end = tokio::time::Instant::now() + Duration::from_secs_f64(args.seconds + 1.0);
    let receive = tokio::spawn(async move {
        let connection = receiver.accept().await.context("no connection")?.await?;
        let mut stream = connection.accept_uni().await?;
        let mut arrivals = Arrivals::default();
        // the news that the sender is gone may be lost where the path is full or dead
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout_at(end, stream.read_chunk(PIECE, true)).await {
            arrivals.add(chunk.bytes.len());
        }
        anyhow::Ok(arrivals)
    });
    let connection = sender.connect_with(client, to, tls::NAME)?.await?;
    let mut stream = connection.open_uni().await?;
    let (piece, begin) = (vec![7u8; PIECE], Instant::now());
    let all = Duration::from_secs_f64(args.seconds);
    while let Some(left) = all.checked_sub(begin.elapsed()) {
        match tokio::time::timeout(left, stream.write_all(&piece)).await {
            Ok(written) => written?,
            Err(_) => break,
        }
    }
    connection.close(0u32.into(), b"");
    receive.await?
}

fn identities(names: &[&str]) -> Result<Vec<Identity>> {
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("bench authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&key)?.pem();
    let issuer = Issuer::new(ca, key);
    let make = |name: &&str| {
        let mut params = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?.pem();
        Ok(Identity::from_pem(&ca_pem, &cert, &key.serialize_pem())?)
    };
    names.iter().map(make).collect()
}

async fn selvedge(args: &Args) -> Result<Arrivals> {
    let mut identities = identities(&["to", "from"])?;
    let mut open = |netns: &str, addresses: &[Ipv6Addr]| {
        let config = Config {
            datagram_bytes_max: args.packet_bytes,
            addresses: addresses.to_vec(),
            ..Config::default()
        };
        let identity = identities.pop().context("two identities")?;
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        inside(netns, || Ok(Endpoint::bind(any, identity, config)?))
    };
    let sender = open(&args.from, &args.from_address)?;
    let receiver = open(&args.to, &args.to_address)?;
    let to = SocketAddrV6::new(args.to_address[0], receiver.local_addr().port(), 0, 0);
    let (client, server) = tokio::try_join!(sender.connect(to, "to"), receiver.accept())?;
    let mut arrivals = Arrivals::default();
    let piece = vec![7u8; PIECE];
    let begin = Instant::now();
    let lane = async || {
        while begin.elapsed().as_secs_f64() < args.seconds {
            client.send(1, piece.clone()).await?;
        }
        anyhow::Ok(())
    };
    let lanes = futures_util::future::try_join_all((0..UNDER_WAY).map(|_| lane()));
    let receive = async {
        loop {
            let got = server.receive(1).await?;
            ensure!(got == piece, "a message arrived damaged");
            arrivals.add(got.len());
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    };
    tokio::select! {
        sent = lanes => { sent?; }
        got = receive => got?,
    }
    Ok(arrivals)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Arrivals(arrivals) = match args.transport {
        Transport::Tcp => tcp(&args, Protocol::TCP)?,
        Transport::Mptcp => tcp(&args, Protocol::MPTCP)?,
        Transport::Quinn => runtime.block_on(quinn(&args))?,
        Transport::Selvedge => runtime.block_on(selvedge(&args))?,
    };
    println!("{}", serde_json::json!({ "arrivals": arrivals }));
    Ok(())
}
