//! How settings are written in files: TOML whose unknown keys are refused, with times such as `10s`.
//!
//! Invariant: an error says line and column. Absent on purpose: reading files and the environment, which is `app`'s.

use crate::error::{FileError, Problem};
use serde::de::{DeserializeOwned, Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::Nanos;

/// Reads a text as settings.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|e| {
        FileError::new(text, e.span().unwrap_or(0..0), Problem::Toml(e.message().trim().replace('\n', " ")))
    })
}

/// A length of time in a file: `"10s"`, `"500ms"`, `"2min"`.
pub(crate) mod time {
    use super::*;

    /// Reads one, longer than nothing.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let expected = "a time such as \"500ms\", \"10s\" or \"2min\", longer than nothing";
        fabric::unit::parse_time(&text)
            .filter(|t| t.0 > 0)
            .map(|t| Duration::from_nanos(t.0))
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }

    /// Writes one.
    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&fabric::unit::time(nanos(*time)))
    }
}

/// A length of time as the fabric counts it; what is too long is the longest.
pub(crate) fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// The first line of a file beside another, such as a token or a password; `base` is the directory of relative paths.
pub(crate) fn secret(base: &Path, path: &Path) -> Result<String, String> {
    let path = if path.is_absolute() { path.to_owned() } else { base.join(path) };
    let text =
        std::fs::read_to_string(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{} is empty; expected a secret in its first line", path.display())),
    }
}

/// The bytes of a file; `base` is the directory of relative paths.
pub(crate) fn bytes(base: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let path: PathBuf = if path.is_absolute() { path.to_owned() } else { base.join(path) };
    std::fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An authority, for doors with encryption.
    pub(crate) fn authority(name: &str) -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        rcgen::CertifiedIssuer::self_signed(params, key).unwrap()
    }

    /// A certificate and its key, PEM, of a name, by an authority.
    pub(crate) fn signed(
        name: &str,
        by: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    ) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
    }

    #[derive(Deserialize, serde::Serialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Some1 {
        #[serde(with = "time")]
        every: Duration,
    }

    #[test]
    fn errors_say_where() {
        let some = parse::<Some1>("every = '1.5s'").unwrap();
        assert_eq!(some.every, Duration::from_millis(1_500));
        assert_eq!(toml::to_string(&some).unwrap(), "every = \"1500ms\"\n");
        let unknown = parse::<Some1>("every = '1s'\nevrey = 2").unwrap_err();
        assert_eq!((unknown.line, unknown.column), (2, 1));
        assert!(unknown.to_string().contains("unknown field `evrey`"), "{unknown}");
        let wrong = parse::<Some1>("every = 'soon'").unwrap_err();
        assert_eq!((wrong.line, wrong.column), (1, 9));
        assert!(wrong.to_string().contains("such as"), "{wrong}");
    }
}
