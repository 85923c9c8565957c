//! Who this agent is: the name its certificate carries.

use crate::error::AgentError;
use x509_parser::pem::parse_x509_pem;

/// The subject's common name of the first certificate of a PEM chain.
pub(crate) fn common_name(cert_pem: &str) -> Result<String, AgentError> {
    let bad = |reason| AgentError::Certificate { reason };
    let (_, pem) = parse_x509_pem(cert_pem.as_bytes()).map_err(|_| bad("it is not PEM"))?;
    let cert = pem.parse_x509().map_err(|_| bad("it is not an X.509 certificate"))?;
    let name = cert.subject().iter_common_name().next().ok_or(bad("its subject has no common name"))?;
    Ok(name.as_str().map_err(|_| bad("its common name is not text"))?.to_owned())
}

/// The number in `host12`. `u32::MAX` where the name has another form: the hub goes by the certificate anyway.
pub(crate) fn host_number(name: &str) -> u32 {
    name.strip_prefix("host").and_then(|n| n.parse().ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "host12");
        let pem = params.self_signed(&key).unwrap().pem();
        assert_eq!(common_name(&pem).as_deref(), Ok("host12"));
        assert_eq!(host_number("host12"), 12);
        assert_eq!(host_number("printer"), u32::MAX);
        assert_eq!(common_name("x"), Err(AgentError::Certificate { reason: "it is not PEM" }));
    }
}
