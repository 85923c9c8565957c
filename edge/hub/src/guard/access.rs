//! The access file: users, tokens, tenants, hooks, and where people sign in. One file, read by every hub of a store.
//!
//! How: TOML, checked whole when it is read; a file that is wrong is refused with what is wrong, and the one before it
//! stays in force. Passwords are there as Argon2id hashes, tokens as SHA-256 of their 256 random bits, which nobody
//! guesses, so that they need no slow hash.
//! Invariants: no secret is in the file in the clear, except of hooks and of the identity provider, which are in files
//! of their own; a name is used once; a token has an end.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use fabric::Fabric;
use ring::digest::{SHA256, digest as hashed};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use wire::HostId;

/// Shortest password.
pub const PASSWORD_CHARS_MIN: usize = 12;
/// Longest, in bytes: more is work for nothing.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// Beginning of every token, so that people and scanners recognise one.
pub const TOKEN_PREFIX: &str = "sel_";
const NAME_MAX: usize = 64;

/// What somebody may do. Each includes the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look and ask.
    Viewer,
    /// Act on incidents.
    Operator,
    /// Read the audit table, and reveal addresses.
    Admin,
}

impl Role {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// What a token is for, besides what its role allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The counters at /metrics.
    Metrics,
    /// What the pages read.
    Read,
    /// Questions in SQL, over HTTP and Flight.
    Query,
    /// Acts on incidents.
    Act,
    /// Addresses revealed.
    Reveal,
}

impl Scope {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Scope::Metrics => "metrics",
            Scope::Read => "read",
            Scope::Query => "query",
            Scope::Act => "act",
            Scope::Reveal => "reveal",
        }
    }
}

/// A person of the local file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Name to log in with.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Argon2id, as a PHC string.
    pub password: String,
    /// Only what is of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A program's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What it is called in the audit table.
    pub name: String,
    /// What it may do at most.
    pub role: Role,
    /// What it is for.
    pub scope: BTreeSet<Scope>,
    /// SHA-256 of the token, hexadecimal.
    pub sha256: String,
    /// Good until, RFC 3339.
    pub expires: String,
    /// Only what is of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// Who owns some of the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its hosts, by name, or ranges such as host4-host7.
    pub hosts: Vec<String>,
}

/// A program that tells of changes, such as a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name, also in its address: /api/v1/hooks/NAME.
    pub name: String,
    /// File with the secret it signs with, beside the access file where it is no absolute path.
    pub secret_file: PathBuf,
}

/// Where people sign in instead (OpenID Connect).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Issuer, such as https://login.example/realms/net.
    pub issuer: String,
    /// Name of this hub there.
    pub client_id: String,
    /// File with its secret there; none for a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// This hub as browsers reach it, such as https://hub.example.
    pub public_url: String,
    /// Claim of the ID token that says who they are, default preferred_username.
    #[serde(default = "name_claim")]
    pub name_claim: String,
    /// Claim that says what they may do, default groups: a text or a list of texts.
    #[serde(default = "role_claim")]
    pub role_claim: String,
    /// Its values that mean a role. Who has none of them is refused.
    pub roles: BTreeMap<String, Role>,
    /// Its values that mean a tenant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, String>,
    /// File with the authorities the provider's certificate may come from, PEM; the system's where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

fn name_claim() -> String {
    "preferred_username".to_owned()
}
fn role_claim() -> String {
    "groups".to_owned()
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// People.
    #[serde(default, rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Programs.
    #[serde(default, rename = "token", skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
    /// Tenants.
    #[serde(default, rename = "tenant", skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Tenant>,
    /// Programs that tell of changes.
    #[serde(default, rename = "hook", skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Where people sign in instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Oidc>,
}

/// Why a file of settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct AccessError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what was expected.
    pub reason: String,
}

/// A name people and programs are called by.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
        return Err(format!("{what} {name:?}: expected 1 to {NAME_MAX} letters, digits, or one of . - _ @"));
    }
    Ok(())
}

/// When a token ends.
pub fn expiry(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// A password as it is kept. Slow on purpose: some 20 ms.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.chars().count() < PASSWORD_CHARS_MIN || password.len() > PASSWORD_BYTES_MAX {
        return Err(format!(
            "expected a password of at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes"
        ));
    }
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(|e| e.to_string())?.to_string())
}

/// Whether a password is the one that was hashed. Slow on purpose.
pub(crate) fn is_password(password: &str, hash: &str) -> bool {
    password.len() <= PASSWORD_BYTES_MAX
        && Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 256 random bits, in hexadecimal.
pub(crate) fn random() -> Result<String, String> {
    fresh_key().map(|bytes| hex(&bytes))
}

/// The same, as bytes.
pub(crate) fn fresh_key() -> Result<[u8; 32], String> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0u8; 32];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(bytes)
}

/// A new token: the text to hand over, once, and what is kept of it.
pub fn new_token() -> Result<(String, String), String> {
    let token = format!("{TOKEN_PREFIX}{}", random()?);
    let kept = digest(&token);
    Ok((token, kept))
}

/// What is kept of a token.
pub(crate) fn digest(token: &str) -> String {
    hex(hashed(&SHA256, token.as_bytes()).as_ref())
}

impl Access {
    /// Reads a file. What is wrong in it is said with its place.
    pub fn read(path: &Path) -> Result<Access, AccessError> {
        let wrong = |reason: String| AccessError { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let access: Access = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        access.check().map_err(wrong)?;
        Ok(access)
    }

    /// As it is written to a file.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }

    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut tenants = BTreeSet::new();
        for t in &self.tenants {
            check_name("tenant", &t.name)?;
            if !tenants.insert(t.name.as_str()) {
                return Err(format!("tenant {:?} is there twice", t.name));
            }
        }
        let known = |of: &str, tenant: Option<&String>| match tenant {
            Some(t) if !tenants.contains(t.as_str()) => {
                Err(format!("{of}: there is no [[tenant]] named {t:?}"))
            }
            _ => Ok(()),
        };
        for u in &self.users {
            check_name("user", &u.name)?;
            known(&u.name, u.tenant.as_ref())?;
            if !names.insert(u.name.as_str()) {
                return Err(format!("user {:?} is there twice", u.name));
            }
            if !u.password.starts_with("$argon2") {
                return Err(format!(
                    "user {:?}: expected a password hashed with Argon2, made by `selvedge access user`",
                    u.name
                ));
            }
        }
        let mut names = BTreeSet::new();
        for t in &self.tokens {
            check_name("token", &t.name)?;
            known(&t.name, t.tenant.as_ref())?;
            if !names.insert(t.name.as_str()) {
                return Err(format!("token {:?} is there twice", t.name));
            }
            if expiry(&t.expires).is_none() {
                return Err(format!(
                    "token {:?}: expires is {:?}, expected a time such as 2027-01-31T00:00:00Z",
                    t.name, t.expires
                ));
            }
            if t.sha256.len() != 64 || !t.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("token {:?}: sha256 is no SHA-256 in hexadecimal", t.name));
            }
        }
        let mut names = BTreeSet::new();
        for h in &self.hooks {
            check_name("hook", &h.name)?;
            if !names.insert(h.name.as_str()) {
                return Err(format!("hook {:?} is there twice", h.name));
            }
        }
        if let Some(o) = &self.oidc {
            for (of, url) in [("issuer", &o.issuer), ("public_url", &o.public_url)] {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(format!(
                        "oidc: {of} is {url:?}, expected an address that begins with https://"
                    ));
                }
            }
            if o.roles.is_empty() {
                return Err("oidc: roles is empty: nobody could sign in".to_owned());
            }
            for t in o.tenants.values() {
                known("oidc", Some(t))?;
            }
        }
        Ok(())
    }
}

/// An access file in force: checked against the fabric, its secrets read.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    pub users: BTreeMap<String, User>,
    /// By SHA-256.
    pub tokens: BTreeMap<String, (Token, SystemTime)>,
    pub tenants: BTreeMap<String, Arc<BTreeSet<HostId>>>,
    pub hooks: BTreeMap<String, Vec<u8>>,
    pub oidc: Option<(Oidc, Option<String>)>,
    /// Authorities of the identity provider, PEM.
    pub oidc_ca: Option<String>,
}

/// A secret in a file beside another.
pub(crate) fn secret(beside: &Path, file: &Path) -> Result<String, String> {
    let path = beside.parent().unwrap_or(Path::new(".")).join(file);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let text = text.trim().to_owned();
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text)
}

fn hosts(fabric: &Fabric, tenant: &Tenant) -> Result<BTreeSet<HostId>, String> {
    let mut out = BTreeSet::new();
    let host = |name: &str| {
        fabric.host_by_name(name.trim()).ok_or_else(|| {
            format!(
                "tenant {:?}: {name:?} is no host of fabric {}, expected host0 to host{}",
                tenant.name,
                fabric.name,
                fabric.shape.hosts.saturating_sub(1)
            )
        })
    };
    for entry in &tenant.hosts {
        match entry.split_once('-') {
            Some((first, last)) => out.extend((host(first)?.0..=host(last)?.0).map(HostId)),
            None => {
                out.insert(host(entry)?);
            }
        }
    }
    Ok(out)
}

/// Shortest secret of a hook.
const SECRET_BYTES_MIN: usize = 16;

impl InForce {
    pub(crate) fn read(path: &Path, fabric: &Fabric) -> Result<InForce, AccessError> {
        let wrong = |reason: String| AccessError { path: path.to_owned(), reason };
        let access = Access::read(path)?;
        let mut out = InForce::default();
        for t in &access.tenants {
            out.tenants.insert(t.name.clone(), Arc::new(hosts(fabric, t).map_err(wrong)?));
        }
        for h in access.hooks {
            let secret = secret(path, &h.secret_file).map_err(wrong)?;
            if secret.len() < SECRET_BYTES_MIN {
                let reason =
                    format!("hook {:?}: expected a secret of at least {SECRET_BYTES_MIN} bytes", h.name);
                return Err(wrong(reason));
            }
            out.hooks.insert(h.name, secret.into_bytes());
        }
        if let Some(o) = access.oidc {
            let secret_text =
                o.client_secret_file.as_ref().map(|f| secret(path, f)).transpose().map_err(wrong)?;
            out.oidc_ca = o.ca_file.as_ref().map(|f| secret(path, f)).transpose().map_err(wrong)?;
            out.oidc = Some((o, secret_text));
        }
        out.users = access.users.into_iter().map(|u| (u.name.clone(), u)).collect();
        for t in access.tokens {
            // Checked when it was read.
            let end = expiry(&t.expires).unwrap_or(SystemTime::UNIX_EPOCH);
            out.tokens.insert(t.sha256.to_ascii_lowercase(), (t, end));
        }
        Ok(out)
    }
}

/// How often the file is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{a_directory, a_fabric};

    fn wrong(text: &str) -> String {
        let dir = a_directory("access-wrong");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("access.toml");
        std::fs::write(&path, text).unwrap();
        InForce::read(&path, &a_fabric()).unwrap_err().reason
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        let token =
            format!("[[token]]\nname='t'\nrole='viewer'\nscope=['read']\nsha256='{}'\n", "ab".repeat(32));
        for (text, says) in [
            ("[[user]]\nname='ada'\nrole='boss'\npassword='$argon2id$'", "viewer"),
            ("[[user]]\nname='ada'\nrole='viewer'\npassword='secret'", "selvedge access user"),
            ("[[user]]\nname='a da'\nrole='viewer'\npassword='$argon2id$'", "letters"),
            ("[[user]]\nname='ada'\nrole='viewer'\npassword='$argon2id$'\ntenant='blue'", "blue"),
            ("[[tenant]]\nname='blue'\nhosts=['host0-host99999']", "host99999"),
            ("[[hook]]\nname='deploy'\nsecret_file='nowhere'", "nowhere"),
            (
                "[oidc]\nissuer='ftp://x'\nclient_id='x'\npublic_url='https://x'\nroles={a='viewer'}",
                "https://",
            ),
            (&format!("{token}expires='soon'"), "2027"),
            (&token, "expires"),
            ("colour = 1", "colour"),
        ] {
            let reason = wrong(text);
            assert!(reason.contains(says), "{text}: {reason}");
        }
    }

    #[test]
    fn a_password_is_kept_as_a_hash_and_a_token_as_a_digest() {
        let hash = hash_password("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$") && !hash.contains("horse"));
        assert!(is_password("correct horse battery", &hash));
        assert!(!is_password("correct horse batterz", &hash));
        assert!(hash_password("short").unwrap_err().contains("12 characters"));
        let (token, kept) = new_token().unwrap();
        assert_eq!(digest(&token), kept);
        assert!(token.starts_with(TOKEN_PREFIX) && token.len() == 68 && !kept.contains(&token[4..]));
        assert_ne!(new_token().unwrap().0, token);
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut access = Access::default();
        access.tenants.push(Tenant { name: "blue".into(), hosts: vec!["host0-host1".into()] });
        access.users.push(User {
            name: "ada".into(),
            role: Role::Operator,
            password: hash_password("correct horse battery").unwrap(),
            tenant: Some("blue".into()),
        });
        let dir = a_directory("access-good");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("access.toml");
        std::fs::write(&path, access.to_toml().unwrap()).unwrap();
        assert_eq!(Access::read(&path).unwrap(), access);
        let read = InForce::read(&path, &a_fabric()).unwrap();
        assert_eq!(*read.tenants["blue"], [HostId(0), HostId(1)].into());
    }
}
