//! A certificate for this run, trusted by this run alone.

use anyhow::Result;
use rcgen::CertifiedKey;

/// Name on the certificate.
pub const NAME: &str = "localhost";

/// PEM of a certificate and its key.
pub struct Identity {
    pub cert: String,
    pub key: String,
    der: rustls::pki_types::CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Identity {
    pub fn new() -> Result<Identity> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        Ok(Identity {
            cert: cert.pem(),
            key: signing_key.serialize_pem(),
            der: cert.der().clone(),
            key_der: signing_key.serialize_der(),
        })
    }

    /// TLS 1.3 for both ends, AES-128-GCM first as everywhere here.
    pub fn configs(&self) -> Result<(rustls::ServerConfig, rustls::ClientConfig)> {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = std::sync::Arc::new(provider);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone())?;
        let only = &[&rustls::version::TLS13];
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(self.key_der.clone());
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(only)?
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key.into())?;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(only)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        server.alpn_protocols = vec![b"bench".to_vec()];
        client.alpn_protocols = vec![b"bench".to_vec()];
        Ok((server, client))
    }
}
