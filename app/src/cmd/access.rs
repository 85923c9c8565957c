//! `selvedge access`: who may use a hub: the access file, written so that nobody has to hash anything by hand.
//!
//! How: the file is changed in place, comments and all, checked as the hub checks it, and replaced whole; every hub
//! that uses it takes it within seconds. A password is asked for without showing it, or read from standard input; a
//! token is printed once and kept nowhere.

use crate::client::HubArgs;
use crate::out;
use anyhow::{Context, bail};
use clap::Subcommand;
use hub::access::{Access, Role, Scope, Tenant, Token, User, hash_password, new_token};
use std::fs::OpenOptions;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

const AFTER: &str = "Examples:
  selvedge access user ada --role operator --file access.toml          asks for a password
  selvedge access token grafana --role viewer --scope query --for 90d --file access.toml
  selvedge access tenant blue host0-host7 --file access.toml
  selvedge access list --file access.toml
  selvedge access remove user ada --file access.toml                   she is logged out within seconds
  selvedge access reveal 113.7.19.4 --reason \"incident 12\" --hub https://hub.example

Roles: viewer looks and asks, operator also acts on incidents, admin also reads the audit table and reveals addresses.
Scopes of tokens: metrics, read, query, act, reveal. Hooks and an identity provider are written into the file by hand;
docs/access.md shows how. A hub takes the file with --access and reads it again when it changes.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct FileArg {
    /// The access file; made if it is not there
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RoleArg {
    /// Look and ask
    Viewer,
    /// Also act on incidents
    Operator,
    /// Also read the audit table and reveal addresses
    Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ScopeArg {
    /// The counters at /metrics
    Metrics,
    /// What the pages read
    Read,
    /// Questions in SQL
    Query,
    /// Acts on incidents
    Act,
    /// Addresses revealed
    Reveal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A person
    User,
    /// A program
    Token,
    /// A tenant
    Tenant,
}

impl From<RoleArg> for Role {
    fn from(r: RoleArg) -> Role {
        match r {
            RoleArg::Viewer => Role::Viewer,
            RoleArg::Operator => Role::Operator,
            RoleArg::Admin => Role::Admin,
        }
    }
}

impl From<ScopeArg> for Scope {
    fn from(s: ScopeArg) -> Scope {
        match s {
            ScopeArg::Metrics => Scope::Metrics,
            ScopeArg::Read => Scope::Read,
            ScopeArg::Query => Scope::Query,
            ScopeArg::Act => Scope::Act,
            ScopeArg::Reveal => Scope::Reveal,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Add a person, or give one another password or role
    User {
        /// Name to log in with
        name: String,
        /// What they may do
        #[arg(long, value_enum)]
        role: RoleArg,
        /// Only what is of this tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        file: FileArg,
    },
    /// Make a token for a program; it is printed once
    Token {
        /// What it is called in the audit table
        name: String,
        /// What it may do at most
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleArg,
        /// What it is for; may be repeated, or separated by commas
        #[arg(long, value_enum, required = true, value_delimiter = ',')]
        scope: Vec<ScopeArg>,
        /// How long it is good, such as 90d; at most two years
        #[arg(long = "for", value_name = "TIME", default_value = "90d", value_parser = validity)]
        validity: Duration,
        /// Only what is of this tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        file: FileArg,
    },
    /// Say which hosts are a tenant's
    Tenant {
        /// Its name
        name: String,
        /// Hosts, or ranges such as host4-host7
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        file: FileArg,
    },
    /// Take a person, a token or a tenant out
    Remove {
        /// What it is
        #[arg(value_enum)]
        kind: Kind,
        /// Its name
        name: String,
        #[command(flatten)]
        file: FileArg,
    },
    /// Who is in the file; no secret is shown
    List {
        #[command(flatten)]
        file: FileArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The address behind a pseudonym; who asked and why is written down
    Reveal {
        /// What stands in a table instead of the address
        address: String,
        /// Why it has to be known
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        hub: HubArgs,
    },
}

const VALIDITY_MAX: Duration = Duration::from_secs(731 * 86_400);

fn validity(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(d) if d >= Duration::from_secs(1) && d <= VALIDITY_MAX => Ok(d),
        _ => Err("expected a time from 1s to 2 years, such as 90d or 12h".to_owned()),
    }
}

fn read(path: &Path) -> anyhow::Result<DocumentMut> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            // What the hub would refuse is said before anything is changed.
            Access::read(path)?;
            text.parse().with_context(|| format!("cannot read {}", path.display()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(DocumentMut::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the file, readable by its owner only, after checking that the hub would take it.
fn write(path: &Path, doc: &DocumentMut) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let put = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(doc.to_string().as_bytes())?;
        file.sync_all()
    };
    put().with_context(|| format!("cannot write {}", beside.display()))?;
    if let Err(e) = Access::read(&beside) {
        let _ = std::fs::remove_file(&beside);
        bail!("{}", e.reason);
    }
    std::fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))
}

fn list<'a>(doc: &'a mut DocumentMut, kind: &str) -> anyhow::Result<&'a mut ArrayOfTables> {
    doc.entry(kind)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .with_context(|| format!("expected [[{kind}]] in the file"))
}

fn is_named(table: &Table, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

/// Puts the one entry of `one` in place of the one of its name, or at the end.
fn put(doc: &mut DocumentMut, kind: &str, name: &str, one: &Access) -> anyhow::Result<()> {
    let mut one: DocumentMut = one.to_toml().map_err(anyhow::Error::msg)?.parse()?;
    let mut entry = list(&mut one, kind)?.get(0).context("nothing to write")?.clone();
    let all = list(doc, kind)?;
    if let Some(old) = all.iter_mut().find(|t| is_named(t, name)) {
        // Its place and the comment above it stay.
        let (decor, position) = (old.decor().clone(), old.position());
        *old = entry;
        *old.decor_mut() = decor;
        old.set_position(position);
        return Ok(());
    }
    // After everything there is, and a line apart.
    entry.set_position(None);
    if doc.iter().any(|(_, item)| item.as_array_of_tables().is_some_and(|a| !a.is_empty())) {
        entry.decor_mut().set_prefix("\n");
    }
    let all = list(doc, kind)?;
    all.push(entry);
    Ok(())
}

fn password(name: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let first = rpassword::prompt_password(format!("Password for {name}: ")).context("cannot ask")?;
    let second = rpassword::prompt_password("Once more: ").context("cannot ask")?;
    if first != second {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(first)
}

#[derive(serde::Serialize)]
struct Listed {
    users: Vec<serde_json::Value>,
    tokens: Vec<serde_json::Value>,
    tenants: Vec<Tenant>,
    hooks: Vec<String>,
    oidc: Option<String>,
}

fn show(path: &Path, as_json: bool) -> anyhow::Result<()> {
    let access = Access::read(path)?;
    let ends = |t: &Token| hub::access::expiry(&t.expires).is_some_and(|at| at > SystemTime::now());
    if as_json {
        let json = |v: serde_json::Value| v;
        return out::json(&Listed {
            users: access
                .users
                .iter()
                .map(|u| json(serde_json::json!({ "name": u.name, "role": u.role, "tenant": u.tenant })))
                .collect(),
            tokens: access
                .tokens
                .iter()
                .map(|t| {
                    serde_json::json!({ "name": t.name, "role": t.role, "scope": t.scope, "expires": t.expires,
                        "valid": ends(t), "tenant": t.tenant })
                })
                .collect(),
            tenants: access.tenants,
            hooks: access.hooks.into_iter().map(|h| h.name).collect(),
            oidc: access.oidc.map(|o| o.issuer),
        });
    }
    let mut lines = String::new();
    let of = |tenant: &Option<String>| tenant.as_ref().map_or(String::new(), |t| format!(", of {t}"));
    for u in &access.users {
        lines.push_str(&format!("user    {:20} {}{}\n", u.name, u.role.word(), of(&u.tenant)));
    }
    for t in &access.tokens {
        let scope: Vec<&str> = t.scope.iter().map(|s| s.word()).collect();
        let until = if ends(t) { "until" } else { "EXPIRED" };
        lines.push_str(&format!(
            "token   {:20} {}, {}, {until} {}{}\n",
            t.name,
            t.role.word(),
            scope.join(" "),
            t.expires,
            of(&t.tenant)
        ));
    }
    for t in &access.tenants {
        lines.push_str(&format!("tenant  {:20} {}\n", t.name, t.hosts.join(" ")));
    }
    for h in &access.hooks {
        lines.push_str(&format!("hook    {:20} secret in {}\n", h.name, h.secret_file.display()));
    }
    if let Some(o) = &access.oidc {
        lines.push_str(&format!("sign-in at {}\n", o.issuer));
    }
    print!("{lines}");
    Ok(())
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::User { name, role, tenant, file } => {
            let mut doc = read(&file.file)?;
            let password = hash_password(&password(&name)?).map_err(anyhow::Error::msg)?;
            let user = User { name: name.clone(), role: role.into(), password, tenant };
            put(&mut doc, "user", &name, &Access { users: vec![user], ..Access::default() })?;
            write(&file.file, &doc)?;
            eprintln!("{name} may now log in as {}", Role::from(role).word());
        }
        Command::Token { name, role, scope, validity, tenant, file } => {
            let mut doc = read(&file.file)?;
            let (token, sha256) = new_token().map_err(anyhow::Error::msg)?;
            let expires = humantime::format_rfc3339_seconds(SystemTime::now() + validity).to_string();
            let entry = Token {
                name: name.clone(),
                role: role.into(),
                scope: scope.into_iter().map(Scope::from).collect(),
                sha256,
                expires: expires.clone(),
                tenant,
            };
            put(&mut doc, "token", &name, &Access { tokens: vec![entry], ..Access::default() })?;
            write(&file.file, &doc)?;
            eprintln!("good until {expires}; it is shown this once:");
            println!("{token}");
        }
        Command::Tenant { name, hosts, file } => {
            let mut doc = read(&file.file)?;
            let tenant = Tenant { name: name.clone(), hosts };
            put(&mut doc, "tenant", &name, &Access { tenants: vec![tenant], ..Access::default() })?;
            write(&file.file, &doc)?;
        }
        Command::Remove { kind, name, file } => {
            let word = match kind {
                Kind::User => "user",
                Kind::Token => "token",
                Kind::Tenant => "tenant",
            };
            let mut doc = read(&file.file)?;
            let all = list(&mut doc, word)?;
            let before = all.len();
            all.retain(|t| !is_named(t, &name));
            if all.len() == before {
                bail!("there is no {word} {name:?} in {}", file.file.display());
            }
            write(&file.file, &doc)?;
        }
        Command::List { file, json } => show(&file.file, json)?,
        Command::Reveal { address, reason, hub } => {
            let body = serde_json::json!({ "address": address, "reason": reason });
            let answer: serde_json::Value = hub.client()?.post("/api/v1/reveal", &body)?;
            println!("{}", answer["address"].as_str().unwrap_or_default());
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(user: User) -> Access {
        Access { users: vec![user], ..Access::default() }
    }

    fn blue() -> Access {
        let blue = Tenant { name: "blue".into(), hosts: vec!["host0".into()] };
        Access { tenants: vec![blue], ..Access::default() }
    }

    #[test]
    fn an_entry_is_replaced_and_comments_stay() {
        let mut doc: DocumentMut = "# ours\n[[user]]\nname = \"ada\" # first\nrole = \"viewer\"\npassword = \"$argon2id$x\"\n\n# the other\n[[user]]\nname = \"bo\"\nrole = \"viewer\"\npassword = \"$argon2id$y\"\n".parse().unwrap();
        let ada =
            User { name: "ada".into(), role: Role::Admin, password: "$argon2id$z".into(), tenant: None };
        put(&mut doc, "user", "ada", &with(ada.clone())).unwrap();
        put(&mut doc, "tenant", "blue", &blue()).unwrap();
        insta::assert_snapshot!(doc.to_string(), @r#"
        # ours
        [[user]]
        name = "ada"
        role = "admin"
        password = "$argon2id$z"

        # the other
        [[user]]
        name = "bo"
        role = "viewer"
        password = "$argon2id$y"

        [[tenant]]
        name = "blue"
        hosts = ["host0"]
        "#);
    }

    #[test]
    fn a_file_that_would_be_refused_is_not_written() {
        let dir = std::env::temp_dir().join(format!("selvedge-access-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("access.toml");
        let mut doc = DocumentMut::new();
        let ada = User {
            name: "ada".into(),
            role: Role::Admin,
            password: "$argon2id$z".into(),
            tenant: Some("blue".into()),
        };
        put(&mut doc, "user", "ada", &with(ada.clone())).unwrap();
        assert!(write(&path, &doc).unwrap_err().to_string().contains("blue"));
        put(&mut doc, "tenant", "blue", &blue()).unwrap();
        write(&path, &doc).unwrap();
        assert_eq!(Access::read(&path).unwrap().users, [ada]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
