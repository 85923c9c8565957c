//! s2n-quic, with the TLS library it chooses by itself.

use crate::tls::{Identity, NAME};
use anyhow::{Context, Result, ensure};
use s2n_quic::client::Connect;
use s2n_quic::provider::{io::tokio::Builder, limits::Limits};
use s2n_quic::{Client, Server};
use std::net::SocketAddr;

/// Bytes handed over at once.
const PIECE: usize = 1 << 20;
/// Flow control windows: large enough not to matter on loopback.
const WINDOW: u64 = 16 << 20;
/// What s2n-quic counts into its MTU besides the UDP payload: IPv4 or IPv6 header at least, and UDP's.
const HEADERS: u16 = 28;

/// Sends `bytes` through one stream in packets of at most `packet` bytes.
pub async fn run(packet: u16, bytes: u64) -> Result<()> {
    let identity = Identity::new()?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let io = || {
        Builder::default()
            .with_receive_address(any)?
            .with_max_mtu(packet + HEADERS)?
            .with_base_mtu(packet + HEADERS)?
            .with_initial_mtu(packet + HEADERS)?
            .build()
    };
    let limits = || -> Result<Limits> {
        Ok(Limits::new()
            .with_data_window(WINDOW)?
            .with_bidirectional_local_data_window(WINDOW)?
            .with_bidirectional_remote_data_window(WINDOW)?
            .with_unidirectional_data_window(WINDOW)?)
    };
    let mut server = Server::builder()
        .with_tls((identity.cert.as_str(), identity.key.as_str()))?
        .with_io(io()?)?
        .with_limits(limits()?)?
        .start()?;
    let to = server.local_addr()?;
    let receive = tokio::spawn(async move {
        let mut connection = server.accept().await.context("no connection")?;
        let mut stream = connection.accept_receive_stream().await?.context("no stream")?;
        let mut got = 0u64;
        while let Some(chunk) = stream.receive().await? {
            got += chunk.len() as u64;
        }
        anyhow::Ok(got)
    });
    let client = Client::builder()
        .with_tls(identity.cert.as_str())?
        .with_io(io()?)?
        .with_limits(limits()?)?
        .start()?;
    let mut connection = client.connect(Connect::new(to).with_server_name(NAME)).await?;
    let mut stream = connection.open_send_stream().await?;
    let piece = vec![7u8; PIECE];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(PIECE as u64) as usize;
        stream.send(piece[..n].to_vec().into()).await?;
        left -= n as u64;
    }
    stream.finish()?;
    let got = receive.await??;
    ensure!(got == bytes, "{got} of {bytes} bytes arrived");
    Ok(())
}
