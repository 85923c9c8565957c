//! `selvedge cert`: the certificates agents and hub trust each other by.
//!
//! One authority per installation signs the hub's certificate and one for each host. Keys are ECDSA P-256, written
//! readable by their owner only.

use anyhow::{Context, bail};
use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const AFTER: &str = "Examples:
  selvedge cert init --dir certs                          the authority: ca.pem and ca.key
  selvedge cert hub --dir certs --name hub.example        hub.pem and hub.key
  selvedge cert host host0 host1 host2 --dir certs        host0.pem, host0.key and so on

Keep ca.key where nobody else reads it: who has it can speak for every host. Each host gets its own .pem and .key and
ca.pem, the hub gets hub.pem, hub.key and ca.pem. Existing files are kept unless --force is given.";

/// Certificates are good from a day ago, so that a clock a little behind does not matter.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the authority
    Init {
        #[command(flatten)]
        common: Common,
    },
    /// Make the hub's certificate
    Hub {
        #[command(flatten)]
        common: Common,
        /// A name or address agents connect to; may be repeated. localhost, 127.0.0.1 and ::1 where none is given
        #[arg(long, value_name = "NAME")]
        name: Vec<String>,
    },
    /// Make certificates for hosts
    Host {
        /// Names of hosts in the fabric, such as host12
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
struct Common {
    /// Where the authority is, and where certificates go
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Days it is good for; an authority ten times as long
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

impl Common {
    fn validity(&self, params: &mut CertificateParams, times: u32) {
        let now = SystemTime::now();
        let days = Duration::from_secs(24 * 3600) * self.days * times;
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + days).into();
    }

    fn write(&self, name: &str, secret: bool, content: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        options.write(true).mode(if secret { 0o600 } else { 0o644 });
        if self.force {
            // A new file, so that the mode is the one above whatever the old one's was.
            let _ = std::fs::remove_file(&path);
        }
        options.create_new(true);
        let mut file = match options.open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("{} exists; --force replaces it", path.display())
            }
            opened => opened.with_context(|| format!("cannot write {}", path.display()))?,
        };
        file.write_all(content.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Nothing is written where one of the files is there already.
    fn refuse_existing<'a>(&self, names: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        for name in names {
            for file in [format!("{name}.pem"), format!("{name}.key")] {
                let path = self.dir.join(file);
                if !self.force && path.exists() {
                    bail!("{} exists; --force replaces it", path.display());
                }
            }
        }
        Ok(())
    }
}

/// What goes into every certificate: its subject, and whom it belongs to.
fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Selvedge");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn init(common: &Common) -> anyhow::Result<()> {
    std::fs::create_dir_all(&common.dir).with_context(|| format!("cannot make {}", common.dir.display()))?;
    common.refuse_existing(["ca"].into_iter())?;
    let mut params = named("Selvedge authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    common.validity(&mut params, 10);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    common.write("ca.key", true, &key.serialize_pem())?;
    common.write("ca.pem", false, &cert.pem())
}

fn authority(dir: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {} (make the authority with `selvedge cert init`)", path.display())
        })
    };
    let key = KeyPair::from_pem(&read("ca.key")?).context("ca.key is no key")?;
    Issuer::from_ca_cert_pem(&read("ca.pem")?, key).context("ca.pem is no certificate of an authority")
}

fn subject_alt_name(name: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let dns = name.try_into().with_context(|| format!("{name:?} is neither a name nor an address"))?;
    Ok(SanType::DnsName(dns))
}

fn issue(
    common: &Common,
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    reached_as: &[String],
    purpose: ExtendedKeyUsagePurpose,
) -> anyhow::Result<()> {
    let mut params = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    for other in reached_as {
        params.subject_alt_names.push(subject_alt_name(other)?);
    }
    common.validity(&mut params, 1);
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    common.write(&format!("{name}.key"), true, &key.serialize_pem())?;
    common.write(&format!("{name}.pem"), false, &cert.pem())
}

/// An authority, a hub's certificate for the loopback and one for each host, in a directory of their own.
pub(crate) fn all(dir: &Path, hosts: &[String]) -> anyhow::Result<()> {
    let common = Common { dir: dir.to_owned(), days: 1, force: true };
    init(&common)?;
    let issuer = authority(dir)?;
    let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    issue(&common, &issuer, "hub", &loopback, ExtendedKeyUsagePurpose::ServerAuth)?;
    for host in hosts {
        issue(&common, &issuer, host, std::slice::from_ref(host), ExtendedKeyUsagePurpose::ClientAuth)?;
    }
    Ok(())
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init { common } => {
            init(&common)?;
            println!("{}", common.dir.join("ca.pem").display());
        }
        Command::Hub { common, name } => {
            let issuer = authority(&common.dir)?;
            common.refuse_existing(["hub"].into_iter())?;
            let names = if name.is_empty() {
                ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
            } else {
                name
            };
            issue(&common, &issuer, "hub", &names, ExtendedKeyUsagePurpose::ServerAuth)?;
            println!("{}", common.dir.join("hub.pem").display());
        }
        Command::Host { names, common } => {
            for name in &names {
                let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                if !fits {
                    bail!("{name:?} is no host's name, expected one such as host12");
                }
            }
            let issuer = authority(&common.dir)?;
            common.refuse_existing(names.iter().map(String::as_str))?;
            for name in &names {
                issue(
                    &common,
                    &issuer,
                    name,
                    std::slice::from_ref(name),
                    ExtendedKeyUsagePurpose::ClientAuth,
                )?;
                println!("{}", common.dir.join(format!("{name}.pem")).display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn common(dir: &Path, force: bool) -> Common {
        Common { dir: dir.to_owned(), days: 30, force }
    }
    fn host(names: &[&str], common: Common) -> anyhow::Result<ExitCode> {
        run(Args {
            command: Command::Host { names: names.iter().map(|n| (*n).to_owned()).collect(), common },
        })
    }

    #[test]
    fn keys_are_private_and_nothing_is_replaced_unasked() {
        let dir = std::env::temp_dir().join(format!("selvedge-cert-test-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        assert!(host(&["host1"], common(&dir, false)).is_err(), "there is no authority yet");
        run(Args { command: Command::Init { common: common(&dir, false) } }).unwrap();
        run(Args { command: Command::Hub { common: common(&dir, false), name: vec![] } }).unwrap();
        host(&["host0", "host1"], common(&dir, false)).unwrap();
        for key in ["ca.key", "hub.key", "host0.key", "host1.key"] {
            let mode = std::fs::metadata(dir.join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        let before = std::fs::read(dir.join("host1.pem")).unwrap();
        let refused = host(&["host2", "host1"], common(&dir, false)).unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        assert!(!dir.join("host2.pem").exists(), "all or nothing");
        assert_eq!(std::fs::read(dir.join("host1.pem")).unwrap(), before);
        host(&["host1"], common(&dir, true)).unwrap();
        assert_ne!(std::fs::read(dir.join("host1.pem")).unwrap(), before);
        assert!(host(&["../x"], common(&dir, false)).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
