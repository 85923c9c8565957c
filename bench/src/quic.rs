//! quinn, and noq, which began as quinn and still looks like it from outside.

use crate::tls::{Identity, NAME};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use std::net::SocketAddr;
use std::sync::Arc;

/// Bytes handed over at once.
const PIECE: usize = 1 << 20;
/// Bytes of socket buffers each way; root alone may set them.
const BUFFER: usize = 8 << 20;
/// Flow control windows: large enough not to matter on loopback.
const WINDOW: u32 = 16 << 20;

macro_rules! quic {
    ($name:ident, $lib:ident, $stream:ident => $next:expr) => {
        /// Sends `bytes` through one stream in packets of at most `packet` bytes.
        pub async fn $name(packet: u16, bytes: u64) -> Result<()> {
            let (server, client) = Identity::new()?.configs()?;
            let mut transport = ::$lib::TransportConfig::default();
            transport
                .initial_mtu(packet)
                .min_mtu(packet)
                .mtu_discovery_config(None)
                .stream_receive_window(WINDOW.into())
                .receive_window(WINDOW.into())
                .send_window(u64::from(WINDOW));
            let transport = Arc::new(transport);
            let mut endpoint = ::$lib::EndpointConfig::default();
            endpoint.max_udp_payload_size(packet.max(1_500))?;
            let server = ::$lib::crypto::rustls::QuicServerConfig::try_from(server)?;
            let mut server = ::$lib::ServerConfig::with_crypto(Arc::new(server));
            server.transport_config(transport.clone());
            let client = ::$lib::crypto::rustls::QuicClientConfig::try_from(client)?;
            let mut client = ::$lib::ClientConfig::new(Arc::new(client));
            client.transport_config(transport);
            let any: SocketAddr = "[::1]:0".parse()?;
            let open = |server| {
                let socket = std::net::UdpSocket::bind(any)?;
                // as large as our own endpoints': with the usual ones what the loopback holds is lost
                setsockopt(&socket, RcvBufForce, &BUFFER)?;
                setsockopt(&socket, SndBufForce, &BUFFER)?;
                let runtime = Arc::new(::$lib::TokioRuntime);
                ::$lib::Endpoint::new(endpoint.clone(), server, socket, runtime)
            };
            let (receiver, sender) = (open(Some(server))?, open(None)?);
            let to = receiver.local_addr()?;
            let receive = tokio::spawn(async move {
                let connection = receiver.accept().await.context("no connection")?.await?;
                let mut $stream = connection.accept_uni().await?;
                let mut got = 0u64;
                while let Some(n) = $next {
                    got += n as u64;
                }
                connection.close(0u32.into(), b"");
                receiver.wait_idle().await;
                anyhow::Ok(got)
            });
            let connection = sender.connect_with(client, to, NAME)?.await?;
            let mut stream = connection.open_uni().await?;
            let piece = vec![7u8; PIECE];
            let mut left = bytes;
            while left > 0 {
                let n = left.min(PIECE as u64) as usize;
                stream.write_all(&piece[..n]).await?;
                left -= n as u64;
            }
            stream.finish()?;
            let got = receive.await??;
            ensure!(got == bytes, "{got} of {bytes} bytes arrived");
            Ok(())
        }
    };
}

quic!(quinn, quinn, stream => stream.read_chunk(PIECE, true).await?.map(|c| c.bytes.len()));
quic!(noq, noq, stream => stream.read_chunk(PIECE).await?.map(|c| c.len()));
