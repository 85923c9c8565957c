//! Who this host is, and whom it believes: one certificate for both roles.
//!
//! How: the certificates are those of `selvedge cert host`, the same as the agents'. They are made for TLS clients; here
//! a host is a host whichever end began, so the responder's certificate is checked by the same rules as the initiator's
//! (signed by the installation's authority, good for clients), and then for its name.
//!
//! Invariants: TLS 1.3 only; no session is resumed; no early data.
//! Absent on purpose: reading files.

use crate::error::IdentityError;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;
use wire::transport::hello::ALPN;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A host's certificate, key and authority, ready for both roles.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// From the texts of PEM files: the authority's certificate, and the host's certificate (with the ones between, if
    /// there are) and key.
    pub fn from_pem(ca: &str, cert: &str, key: &str) -> Result<Identity, IdentityError> {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(der.map_err(|_| IdentityError::Pem { what: "authority" })?)?;
        }
        if roots.is_empty() {
            return Err(IdentityError::Pem { what: "authority" });
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
        let chain = chain.map_err(|_| IdentityError::Pem { what: "certificate" })?;
        let first = chain.first().ok_or(IdentityError::Pem { what: "certificate" })?;
        let name = common_name(first).ok_or(IdentityError::Nameless)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| IdentityError::Pem { what: "private key" })?;

        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|_| IdentityError::Pem { what: "authority" })?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyRole(verifier.clone())))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Identity { name, client: Arc::new(client), server: Arc::new(server) })
    }

    /// The name its certificate carries, such as `host12`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The subject's common name.
pub(crate) fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let name = cert.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Checks a responder's certificate as an initiator's is checked, and its name.
#[derive(Debug)]
struct AnyRole(Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for AnyRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)?;
        let cert = ParsedCertificate::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verify_server_name(&cert, server_name)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
