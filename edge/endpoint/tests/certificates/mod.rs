//! Certificates for hosts in tests.

use selvedge_endpoint::Identity;

/// Certificates as `selvedge cert` makes them.
pub fn hosts<const N: usize>(names: [&str; N]) -> [Identity; N] {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).unwrap();
    names.map(|name| {
        let mut params = named(name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        Identity::from_pem(&ca_pem, &cert, &key.serialize_pem()).unwrap()
    })
}
