//! Addresses of people and tenants: written as pseudonyms, revealed one by one.
//!
//! How: a keyed encryption of an address to an address that keeps prefixes (ipcrypt-pfx, draft-denis-ipcrypt): two
//! addresses of one network become two addresses of one network, so that rows can still be grouped by it. Whoever has
//! the key can go back; the hub does so for an administrator, who is written down.
//! Invariants: the key's file is readable by its owner only; it is made once, also where two hubs begin together.

use crate::error::HubError;
use ipcrypt_rs::IpcryptPfx;
use ring::digest::{SHA256, digest};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const KEY_BYTES: usize = 32;

pub(crate) struct Pseudonyms {
    cipher: IpcryptPfx,
    key_id: String,
}

impl Pseudonyms {
    fn with(key: [u8; KEY_BYTES]) -> Self {
        // Of the key's digest, so that the id tells nothing of the key.
        let digest = digest(&SHA256, &key);
        let key_id = super::access::hex(digest.as_ref().get(..4).unwrap_or_default());
        Pseudonyms { cipher: IpcryptPfx::new(key), key_id }
    }

    /// Takes the key in a file, which is made where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, HubError> {
        let failed = |kind: ErrorKind| HubError::File { path: path.to_owned(), kind };
        let read = || -> std::io::Result<[u8; KEY_BYTES]> {
            let text = std::fs::read_to_string(path)?;
            let text = text.trim();
            let bytes: Option<Vec<u8>> = (0..text.len() / 2)
                .map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok())
                .collect();
            let key = bytes.and_then(|b| b.try_into().ok()).filter(|_| text.len() == 2 * KEY_BYTES);
            key.ok_or_else(|| ErrorKind::InvalidData.into())
        };
        match read() {
            Ok(key) => return Ok(Pseudonyms::with(key)),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e.kind())),
            Err(_) => {}
        }
        let text = super::access::random().map_err(|_| failed(ErrorKind::Other))?;
        // Whole or not at all: written beside, then linked to its name, which fails where another hub was first.
        let beside = path.with_extension(format!("new.{}", std::process::id()));
        let made = || -> std::io::Result<()> {
            let mut file: File =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::hard_link(&beside, path)
        };
        let outcome = made();
        let _ = std::fs::remove_file(&beside);
        match outcome {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(failed(e.kind())),
            _ => read().map(Pseudonyms::with).map_err(|e| failed(e.kind())),
        }
    }

    /// What stands for an address, as text.
    pub(crate) fn of(&self, address: IpAddr) -> String {
        self.for_address(address.to_canonical()).to_string()
    }

    /// What stands for an address.
    pub(crate) fn for_address(&self, address: IpAddr) -> IpAddr {
        self.cipher.encrypt_ipaddr(address)
    }

    /// The address behind what stands for it.
    pub(crate) fn behind(&self, pseudonym: IpAddr) -> IpAddr {
        self.cipher.decrypt_ipaddr(pseudonym)
    }

    /// Which key this is.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::a_directory;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn addresses_come_back_and_keep_their_networks() {
        let dir = a_directory("pseudonyms");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("address.key");
        let first = Pseudonyms::open(&path).unwrap();
        let second = Pseudonyms::open(&path).unwrap();
        assert_eq!(first.key_id(), second.key_id());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
        let prefix = |text: &str| text.rsplit_once('.').unwrap().0.to_owned();
        let of = |a: &str| first.of(a.parse().unwrap());
        assert_eq!(prefix(&of("10.1.2.3")), prefix(&of("10.1.2.77")));
        assert_ne!(prefix(&of("10.1.2.3")), "10.1.2");
        for a in ["10.1.2.3", "192.0.2.9", "2001:db8::7"] {
            let there = of(a);
            assert_ne!(there, a);
            assert_eq!(second.behind(there.parse().unwrap()), a.parse::<IpAddr>().unwrap());
        }
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(Pseudonyms::open(&path), Err(HubError::File { kind: ErrorKind::InvalidData, .. })));
    }
}
