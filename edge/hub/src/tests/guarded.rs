//! A hub with users: who gets in, who does not, and that both are written down.

use super::{Authority, Hub, a_directory, seed};
use crate::access::{Access, Role, Scope, Tenant, Token, User, hash_password, new_token};
use crate::config::WebTls;
use crate::guard::MeView;
use arrow_flight::sql::client::FlightSqlServiceClient;
use openidconnect::core::{
    CoreEdDsaPrivateSigningKey, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
};
use openidconnect::{
    AccessToken, AdditionalClaims, Audience, EndUserUsername, IdToken, IdTokenClaims, IssuerUrl,
    JsonWebKeyId, Nonce, PkceCodeChallenge, PkceCodeVerifier, PrivateSigningKey as _, StandardClaims,
    SubjectIdentifier,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tables::Sight;
use wire::HostId;

const PASSWORD: &str = "correct horse battery";

/// Tokens by name, and the directory of the hub.
struct Place {
    dir: PathBuf,
    tokens: BTreeMap<&'static str, String>,
    access: Access,
}

fn in_time(seconds: i64) -> String {
    let at = SystemTime::now();
    let at = if seconds < 0 {
        at - Duration::from_secs(seconds.unsigned_abs())
    } else {
        at + Duration::from_secs(seconds.unsigned_abs())
    };
    humantime::format_rfc3339_seconds(at).to_string()
}

/// An access file with a person of every role, tokens, a tenant and a hook.
fn a_place(name: &str) -> Place {
    let dir = a_directory(name);
    std::fs::create_dir_all(&dir).unwrap();
    let mut access = Access::default();
    access.tenants.push(Tenant { name: "blue".into(), hosts: vec!["host0-host3".into()] });
    let password = hash_password(PASSWORD).unwrap();
    for (name, role, tenant) in [
        ("vera", Role::Viewer, None),
        ("otto", Role::Operator, None),
        ("ada", Role::Admin, None),
        ("bob", Role::Operator, Some("blue".to_owned())),
    ] {
        access.users.push(User { name: name.into(), role, password: password.clone(), tenant });
    }
    let mut tokens = BTreeMap::new();
    let all = [Scope::Metrics, Scope::Read, Scope::Query, Scope::Act, Scope::Reveal];
    for (name, role, scope, ends) in [
        ("everything", Role::Admin, all.to_vec(), 3600),
        ("questions", Role::Viewer, vec![Scope::Query], 3600),
        ("reads", Role::Viewer, vec![Scope::Read], 3600),
        ("acts", Role::Operator, vec![Scope::Read, Scope::Act], 3600),
        ("prometheus", Role::Viewer, vec![Scope::Metrics], 3600),
        ("old", Role::Admin, all.to_vec(), -60),
    ] {
        let (token, sha256) = new_token().unwrap();
        tokens.insert(name, token);
        let scope = scope.into_iter().collect();
        access.tokens.push(Token {
            name: name.into(),
            role,
            scope,
            sha256,
            expires: in_time(ends),
            tenant: None,
        });
    }
    std::fs::write(dir.join("deploy.secret"), "a secret of a hook").unwrap();
    access.hooks.push(crate::access::Hook { name: "deploy".into(), secret_file: "deploy.secret".into() });
    let place = Place { dir, tokens, access };
    place.write();
    place
}

impl Place {
    fn write(&self) {
        std::fs::write(self.dir.join("access.toml"), self.access.to_toml().unwrap()).unwrap();
    }
    async fn hub(&self) -> Hub {
        let path = self.dir.join("access.toml");
        Hub::start_with(&self.dir.join("data"), |c| c.access = Some(path)).await
    }
    fn bearer(&self, name: &str) -> (&'static str, String) {
        ("authorization", format!("Bearer {}", self.tokens[name]))
    }
}

type Headers = Vec<(&'static str, String)>;

/// An answer: status, headers, body.
struct Got {
    status: u16,
    cookie: String,
    location: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

async fn send(
    base: String,
    method: &'static str,
    path: &str,
    headers: Headers,
    body: Option<Vec<u8>>,
) -> Got {
    let url = if path.contains("://") { path.to_owned() } else { format!("{base}{path}") };
    tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent: ureq::Agent = config.timeout_global(Some(Duration::from_secs(20))).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut got = agent.run(request.body(body.unwrap_or_default()).unwrap()).unwrap();
        let text = |name: &str| {
            let all: Vec<&str> = got.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
            all.join("\n")
        };
        Got {
            status: got.status().as_u16(),
            cookie: text("set-cookie"),
            location: text("location"),
            body: got.body_mut().read_to_string().unwrap(),
        }
    })
    .await
    .unwrap()
}

impl Hub {
    fn base(&self) -> String {
        format!("http://{}", self.bound.http)
    }
    async fn ask(&self, path: &str, headers: Headers) -> Got {
        send(self.base(), "GET", path, headers, None).await
    }
    async fn tell(&self, path: &str, mut headers: Headers, body: Value) -> Got {
        headers.push(("content-type", "application/json".to_owned()));
        send(self.base(), "POST", path, headers, Some(body.to_string().into_bytes())).await
    }
    /// Logs in and gives what a browser would then send.
    async fn log_in(&self, name: &str) -> (Headers, MeView) {
        let got = self.tell("/api/v1/login", vec![], json!({ "name": name, "password": PASSWORD })).await;
        assert_eq!(got.status, 200, "{}", got.body);
        let me: MeView = serde_json::from_str(&got.body).unwrap();
        for attribute in ["__Host-selvedge=", "HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
            assert!(got.cookie.contains(attribute), "{}", got.cookie);
        }
        let cookie = got.cookie.split(';').next().unwrap().to_owned();
        (vec![("cookie", cookie), ("x-selvedge-csrf", me.csrf.clone())], me)
    }
    /// Rows of the audit table that match, once there are that many.
    async fn audited(&self, place: &Place, filter: &str, at_least: usize) -> Vec<Value> {
        let sql = format!(
            "select who, role, auth, act, subject, outcome, reason, times, address from audit where {filter} order by ts"
        );
        let mut rows = Vec::new();
        for _ in 0..50 {
            let got =
                self.tell("/api/v1/query", vec![place.bearer("everything")], json!({ "sql": sql })).await;
            assert_eq!(got.status, 200, "{}", got.body);
            rows = got.json()["rows"].as_array().unwrap().clone();
            if rows.len() >= at_least {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(rows.len() >= at_least, "{filter}: {rows:?}");
        rows
    }
}

#[tokio::test]
async fn only_who_may_is_let_in_and_what_is_refused_is_written_down() {
    let place = a_place("guarded");
    let data = place.dir.join("data");
    tokio::task::spawn_blocking(move || seed(&data)).await.unwrap();
    let hub = place.hub().await;
    let read = "/api/v1/agents";
    let acknowledge = "/api/v1/incidents/inc-1/acknowledge";
    let sql = json!({ "sql": "select 1" });

    // Nobody in particular: the pages themselves, and whether the hub lives.
    for path in ["/healthz", "/readyz", "/login", "/"] {
        assert_ne!(hub.ask(path, vec![]).await.status, 401, "{path}");
    }
    let got = hub.ask("/api/v1/me", vec![]).await;
    assert_eq!((got.status, got.json()["login"].as_str()), (401, Some("local")));
    for path in
        [read, "/metrics", "/api/v1/now", "/api/v1/events", "/api/v1/openapi.json", "/api/v1/whatever"]
    {
        assert_eq!(hub.ask(path, vec![]).await.status, 401, "{path}");
    }
    // Tokens do what they are for.
    for (name, path, status) in [
        ("reads", read, 200),
        ("prometheus", "/metrics", 200),
        ("prometheus", read, 403),
        ("questions", read, 403),
        ("reads", "/metrics", 403),
        ("old", read, 401),
    ] {
        assert_eq!(hub.ask(path, vec![place.bearer(name)]).await.status, status, "{name} {path}");
    }
    for (name, path, body, status) in [
        ("questions", "/api/v1/query", &sql, 200),
        ("reads", "/api/v1/query", &sql, 403),
        ("reads", acknowledge, &json!({}), 403),
        ("acts", acknowledge, &json!({}), 200),
        ("acts", "/api/v1/reveal", &json!({ "address": "10.0.0.1", "reason": "x" }), 403),
    ] {
        let got = hub.tell(path, vec![place.bearer(name)], body.clone()).await;
        assert_eq!(got.status, status, "{name} {path}: {}", got.body);
    }
    let forged = vec![("authorization", "Bearer sel_0123".to_owned())];
    assert_eq!(hub.ask(read, forged).await.status, 401);
    assert_eq!(hub.ask(read, vec![("authorization", "Basic eDp5".to_owned())]).await.status, 401);

    // People: the viewer may not acknowledge, the operator may, and never without the token against forged requests.
    let (vera, me) = hub.log_in("vera").await;
    assert_eq!((me.role.as_str(), me.auth.as_str(), me.csrf.len()), ("viewer", "session", 64));
    let got = hub.tell(acknowledge, vera.clone(), json!({})).await;
    assert_eq!((got.status, got.error().contains("operator")), (403, true));
    let (otto, _) = hub.log_in("otto").await;
    assert_eq!(hub.tell(acknowledge, otto[..1].to_vec(), json!({})).await.status, 403, "no token");
    let mut elsewhere = otto.clone();
    elsewhere.push(("origin", "https://evil.example".to_owned()));
    assert_eq!(hub.tell(acknowledge, elsewhere, json!({})).await.status, 403, "from another site");
    let mut fetched = otto.clone();
    fetched.push(("sec-fetch-site", "cross-site".to_owned()));
    assert_eq!(hub.tell(acknowledge, fetched, json!({})).await.status, 403, "from another site");
    let got = hub.tell(acknowledge, otto.clone(), json!({})).await;
    assert_eq!(
        (got.status, got.json()["care"]["acknowledged_by"].as_str()),
        (200, Some("otto")),
        "{}",
        got.body
    );
    assert_eq!(hub.ask(read, vec![("host", "evil.example".to_owned())]).await.status, 421, "DNS rebinding");

    // The audit table is for administrators, and asking it is written down.
    let audit = json!({ "sql": "select count(*) from audit" });
    let got = hub.tell("/api/v1/query", otto.clone(), audit.clone()).await;
    assert_eq!((got.status, got.error().contains("administrators")), (403, true), "{}", got.body);
    let (ada, _) = hub.log_in("ada").await;
    assert_eq!(hub.tell("/api/v1/query", ada.clone(), audit).await.status, 200);

    // A stream of events ends with the session it was opened by.
    let (base, cookie) = (hub.base(), otto[0].1.clone());
    let (begun, listening) = tokio::sync::oneshot::channel();
    let events = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::new_with_defaults();
        let mut stream = agent.get(format!("{base}/api/v1/events")).header("cookie", &cookie).call().unwrap();
        let mut reader = stream.body_mut().as_reader();
        let mut buf = [0u8; 256];
        assert!(reader.read(&mut buf).unwrap() > 0);
        begun.send(()).unwrap();
        while reader.read(&mut buf).is_ok_and(|n| n > 0) {}
    });
    listening.await.unwrap();
    assert_eq!(hub.tell("/api/v1/logout", otto.clone(), json!({})).await.status, 204);
    tokio::time::timeout(Duration::from_secs(5), events).await.expect("the stream ends").unwrap();
    assert_eq!(hub.ask(read, otto).await.status, 401, "logged out");

    for (filter, at_least, who) in [
        ("act = 'acknowledge' and outcome = 'done'", 2, "acts"),
        ("act = 'login' and outcome = 'done'", 3, "vera"),
        ("act = 'logout'", 1, "otto"),
        ("reason = 'role' and who = 'vera'", 1, "vera"),
        ("reason = 'csrf'", 1, "otto"),
        ("reason = 'foreign_site'", 1, ""),
        ("reason = 'host'", 1, ""),
        ("reason = 'expired_token'", 1, ""),
        ("reason = 'unknown_token'", 1, ""),
        ("reason = 'not_logged_in'", 1, ""),
        ("act = 'query' and who = 'ada'", 1, "ada"),
    ] {
        let rows = hub.audited(&place, filter, at_least).await;
        assert_eq!(rows[0][0], who, "{filter}: {rows:?}");
        let address = rows[0][8].as_str().unwrap();
        assert_ne!(address, "127.0.0.1", "a pseudonym");
        // An administrator gets the address back, and that is written down.
        let asked = json!({ "address": address, "reason": "a test" });
        let got = hub.tell("/api/v1/reveal", ada.clone(), asked).await;
        assert_eq!(got.json()["address"], "127.0.0.1", "{}", got.body);
    }
    let revealed = hub.audited(&place, "act = 'reveal' and outcome = 'done'", 11).await;
    assert_eq!((&revealed[0][0], &revealed[0][6]), (&json!("ada"), &json!("a test")));
    let counted = hub.ask("/metrics", vec![place.bearer("prometheus")]).await.body;
    for reason in ["role", "csrf", "foreign_site", "host", "expired_token", "unknown_token", "not_logged_in"]
    {
        let line = format!("selvedge_hub_refused_total{{reason=\"{reason}\"}}");
        assert!(counted.contains(&line), "{line}: {counted}");
    }
    hub.end().await;
}

#[tokio::test]
async fn a_wrong_password_says_nothing_and_too_many_are_refused() {
    let place = a_place("passwords");
    let hub = place.hub().await;
    let login = |name: &'static str, password: &'static str| {
        hub.tell("/api/v1/login", vec![], json!({ "name": name, "password": password }))
    };
    let (wrong, unknown) = (login("ada", "wrong").await, login("nobody", PASSWORD).await);
    assert_eq!(
        (wrong.status, wrong.error()),
        (401, unknown.error()),
        "which of the two was wrong is not said"
    );
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(login("ada", "guess").await.status == 429);
    }
    assert!(refused >= 9, "{refused}");
    assert_eq!(login("ada", PASSWORD).await.status, 429, "also the right one, until a minute is over");
    let rows = hub.audited(&place, "act = 'login' and reason = 'too_many_logins'", 1).await;
    let times: u64 = rows.iter().map(|r| r[7].as_u64().unwrap()).sum();
    assert_eq!(times, u64::from(refused) + 1, "{rows:?}");
    hub.end().await;
}

#[tokio::test]
async fn the_access_file_is_read_again_and_a_wrong_one_is_not() {
    let mut place = a_place("reload");
    let hub = place.hub().await;
    let (otto, _) = hub.log_in("otto").await;
    let read = "/api/v1/agents";
    std::fs::write(place.dir.join("access.toml"), "colour = 1").unwrap();
    hub.audited(&place, "reason = 'access_file'", 1).await;
    assert_eq!(hub.ask(read, otto.clone()).await.status, 200, "the one before stays in force");
    place.access.users.retain(|u| u.name != "otto");
    place.access.tokens.retain(|t| t.name != "reads");
    place.write();
    hub.audited(&place, "act = 'change' and subject = 'access' and outcome = 'done'", 1).await;
    assert_eq!(hub.ask(read, otto).await.status, 401);
    assert_eq!(hub.ask(read, vec![place.bearer("reads")]).await.status, 401);
    hub.end().await;
}

#[tokio::test]
async fn a_tenant_sees_what_is_theirs_and_cannot_ask_around_it() {
    let place = a_place("tenants");
    let data = place.dir.join("data");
    tokio::task::spawn_blocking(move || seed(&data)).await.unwrap();
    let hub = place.hub().await;
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    agent.hello(3, 1).await;
    agent.batch(super::a_batch(1, 4, |_| {})).await;
    let (bob, me) = hub.log_in("bob").await;
    assert_eq!(me.tenant.as_deref(), Some("blue"));
    for path in ["/api/v1/now", "/api/v1/agents", "/api/v1/map", "/api/v1/events", "/api/v1/incidents/inc-1"]
    {
        let got = hub.ask(path, bob.clone()).await;
        assert_eq!((got.status, got.error().contains("tenant")), (403, true), "{path}: {}", got.body);
    }
    let number = |got: Got| got.json()["rows"][0][0].as_u64();
    let ask = async |who: Headers, sql: &'static str| {
        let got = hub.tell("/api/v1/query", who, json!({ "sql": sql })).await;
        assert_eq!(got.status, 200, "{sql}: {}", got.body);
        got
    };
    let all = || vec![place.bearer("everything")];
    for (sql, seen, there) in [
        ("select count(*) from entity where kind = 'host'", 4, 16),
        ("select count(*) from entity where kind = 'nic'", 8, 32),
        ("select count(*) from entity where kind = 'switch'", 16, 16),
        // Of each cable both directions: 2 planes × 4 leaves × 4 spines, and the hosts' own.
        ("select count(*) from link", 64 + 16, 64 + 64),
        ("select count(*) from incident where detail <> ''", 0, 1),
        ("select least(count(*), 1) from incident", 1, 1),
        ("select count(distinct producer) from path_observation", 0, 1),
        ("select count(*) from change where kind = 'agent' and subject = 'host3'", 1, 1),
    ] {
        let (seen, there) = (Some(seen), Some(there));
        assert_eq!(number(ask(bob.clone(), sql).await), seen, "{sql}");
        let got = number(ask(all(), sql).await);
        assert!(got >= there, "{sql}: {got:?}");
    }
    // A condition that fails on a row tells of it: it must not be judged on rows that are not seen.
    let sql = "select count(*) from incident where cast(detail as int) > 0";
    let got = hub.tell("/api/v1/query", bob.clone(), json!({ "sql": sql })).await;
    assert!(!got.body.contains("host") && !got.body.contains("confidence"), "{}", got.body);
    let sql = "select count(*) from entity where cast(name as int) > 0 and name not like 'host%' and name not like 'p%'";
    let got = hub.tell("/api/v1/query", bob.clone(), json!({ "sql": sql })).await;
    for other in 4..16 {
        assert!(!got.body.contains(&format!("host{other}")), "{}", got.body);
    }
    // Of what stands beside an incident's component, the same.
    let listed = hub.ask("/api/v1/incidents", bob.clone()).await;
    let mut views: Vec<crate::view::IncidentView> = serde_json::from_str(&listed.body).unwrap();
    assert_eq!(views.len(), 1, "{}", listed.body);
    let view = &mut views[0];
    view.alternatives =
        ["p0-leaf1:p0-spine1", "host9", "host2", "host9-p0", "no such thing"].map(str::to_owned).into();
    view.links = vec![1, 2];
    let fabric = super::a_fabric();
    let of = |nic: &str| fabric.links().map(|l| fabric.link_name(l)).find(|n| n.starts_with(nic)).unwrap();
    view.link_names = vec![of("host9:"), of("host2:")];
    let blue = Sight { sensitive: false, hosts: Some(Arc::new((0..4).map(HostId).collect())) };
    view.cut(&fabric, &blue);
    assert_eq!(view.alternatives, ["p0-leaf1:p0-spine1", "host2"]);
    assert_eq!((&view.links[..], &view.link_names[..]), (&[2][..], &[of("host2:")][..]));
    let matrix = hub.ask("/api/v1/matrix", bob.clone()).await;
    assert_eq!(matrix.json()["labels"], json!(["host0", "host1", "host2", "host3"]));
    assert_eq!(hub.tell("/api/v1/query", bob, json!({ "sql": "select * from audit" })).await.status, 403);
    hub.audited(&place, "reason = 'tenant' and who = 'bob'", 1).await;
    hub.end().await;
}

fn signed(at: u64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a secret of a hook");
    let mac = ring::hmac::sign(&key, format!("{at}.{body}").as_bytes());
    let hex: String = mac.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("t={at},v1={hex}")
}

#[tokio::test]
async fn a_hook_tells_of_changes_and_a_forged_one_does_not() {
    let place = a_place("hooks");
    let hub = place.hub().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let body =
        json!({ "kind": "deploy", "subject": "p0-leaf1", "what": "began", "text": "new optics firmware" });
    let text = body.to_string();
    let tell = async |name: &'static str, signature: String, text: String| {
        let headers =
            vec![("x-selvedge-signature", signature), ("content-type", "application/json".to_owned())];
        let path = format!("/api/v1/hooks/{name}");
        send(hub.base(), "POST", &path, headers, Some(text.into_bytes())).await
    };
    let good = signed(now, &text);
    for (name, signature, sent) in [
        ("deploy", String::new(), text.clone()),
        ("deploy", good.clone(), text.replace("leaf1", "leaf2")),
        ("deploy", signed(now - 3600, &text), text.clone()),
        ("other", good.clone(), text.clone()),
    ] {
        assert_eq!(tell(name, signature, sent).await.status, 401);
    }
    let got = tell("deploy", good.clone(), text.clone()).await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(tell("deploy", good, text).await.status, 401, "a second time");
    let sql = json!({ "sql": "select subject, what, text from change where kind = 'deploy'" });
    let got = hub.tell("/api/v1/query", vec![place.bearer("questions")], sql).await;
    assert_eq!(got.json()["rows"], json!([["p0-leaf1", "began", "new optics firmware"]]));
    for why in ["no_signature", "signature", "old_signature", "unknown_hook", "replayed"] {
        hub.audited(&place, &format!("act = 'change' and reason = '{why}'"), 1).await;
    }
    hub.audited(&place, "act = 'change' and who = 'deploy' and outcome = 'done'", 1).await;
    hub.end().await;
}

#[tokio::test]
async fn too_much_of_anything_is_refused() {
    let place = a_place("too-much");
    let path = place.dir.join("access.toml");
    let hub = Hub::start_with(&place.dir.join("data"), |c| {
        c.access = Some(path);
        c.http_connections = 40;
    })
    .await;
    // A body of a gigabyte is refused by what it says of itself, before it is sent.
    let addr = hub.bound.http;
    let (_, token) = place.bearer("everything");
    let said = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "POST /api/v1/query HTTP/1.1\r\nhost: localhost\r\nauthorization: {token}\r\n\
             content-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // It may close at any time from now.
        let _ = stream.write_all(&[b'x'; 100_000]);
        let mut said = [0u8; 64];
        let n = stream.read(&mut said).unwrap();
        String::from_utf8_lossy(&said[..n]).into_owned()
    });
    let said = said.await.unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    // Half of the connections are for one address; the rest of them are closed at once.
    let open = tokio::task::spawn_blocking(move || {
        let mut all: Vec<std::net::TcpStream> =
            (0..60).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(500));
        let mut open = 0;
        for s in &mut all {
            s.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            // Closed: the end, or a reset. Open: nothing yet.
            let silent = s.read(&mut [0u8; 1]).is_err_and(|e| {
                matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            });
            open += u32::from(silent);
        }
        open
    });
    let open = open.await.unwrap();
    assert!((15..=20).contains(&open), "{open}");
    hub.audited(&place, "reason = 'too_large'", 1).await;
    let rows = hub.audited(&place, "reason = 'too_many_connections'", 1).await;
    let times: u64 = rows.iter().map(|r| r[7].as_u64().unwrap()).sum();
    assert!(times >= 40, "{rows:?}");
    hub.end().await;
}

#[tokio::test]
async fn flight_knows_who_asks() {
    let place = a_place("flight");
    let path = place.dir.join("access.toml");
    let hub = Hub::start_with(&place.dir.join("data"), |c| {
        c.access = Some(path);
        c.flight = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let at = format!("http://{}", hub.bound.flight.unwrap());
    let client = async || {
        let channel = tonic::transport::Endpoint::from_shared(at.clone()).unwrap().connect().await.unwrap();
        FlightSqlServiceClient::new(channel)
    };
    let ask = async |client: &mut FlightSqlServiceClient<tonic::transport::Channel>, sql: &str| {
        let info = client.execute(sql.to_owned(), None).await.map_err(|e| e.to_string())?;
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket).await.map_err(|e| e.to_string())?;
        let mut rows = 0;
        while let Some(batch) = tokio_stream::StreamExt::next(&mut stream).await {
            rows += batch.map_err(|e| e.to_string())?.num_rows();
        }
        Ok::<usize, String>(rows)
    };
    let said = ask(&mut client().await, "select 1").await.unwrap_err();
    assert!(said.contains("not_logged_in"), "{said}");
    for (name, wanted) in [("questions", Ok(1)), ("reads", Err("scope query")), ("old", Err("expired_token"))]
    {
        let mut client = client().await;
        client.set_token(place.tokens[name].clone());
        match (ask(&mut client, "select 1").await, wanted) {
            (Ok(got), Ok(rows)) => assert_eq!(got, rows),
            (Err(got), Err(says)) => assert!(got.contains(says), "{name}: {got}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // By name and password, as JDBC and ADBC do it.
    let mut ada = client().await;
    assert!(ada.handshake("ada", "wrong").await.is_err());
    ada.handshake("ada", PASSWORD).await.unwrap();
    assert_eq!(ask(&mut ada, "select count(*) from audit").await, Ok(1));
    let mut vera = client().await;
    vera.handshake("vera", PASSWORD).await.unwrap();
    assert!(ask(&mut vera, "select * from audit").await.unwrap_err().contains("audit"));
    for sql in ["drop table link", "copy link to '/tmp/selvedge-link.csv'", "select * from '/etc/passwd'"] {
        let said = ask(&mut ada, sql).await.unwrap_err();
        assert!(said.contains("only statements that read"), "{sql}: {said}");
        hub.audited(&place, &format!("reason = 'statement' and subject = '{}'", sql.replace('\'', "''")), 1)
            .await;
    }
    hub.audited(&place, "act = 'query' and who = 'ada' and outcome = 'done'", 1).await;
    hub.end().await;
}

#[tokio::test]
async fn an_agent_that_is_refused_is_written_down() {
    let place = a_place("agents");
    let hub = place.hub().await;
    let mut agent = hub.connect("host3", &hub.authority).await.unwrap();
    assert!(super::reason(agent.hello(4, 1).await).contains("only for its own host"));
    let rows = hub.audited(&place, "act = 'connect' and reason = 'other_host'", 1).await;
    assert_eq!((&rows[0][0], &rows[0][2]), (&json!("host3"), &json!("certificate")));
    hub.end().await;
}

/// Files of a certificate for localhost.
fn certificate(authority: &Authority, dir: &Path) -> WebTls {
    let (cert, key) = authority.issue("localhost");
    let files = WebTls { cert: dir.join("web.pem"), key: dir.join("web.key") };
    std::fs::write(&files.cert, cert).unwrap();
    std::fs::write(&files.key, key).unwrap();
    files
}

#[tokio::test]
async fn the_pages_come_over_tls_with_the_certificate_as_it_is_now() {
    let place = a_place("tls");
    let (first, second) = (Authority::new(), Authority::new());
    let files = certificate(&first, &place.dir);
    let path = place.dir.join("access.toml");
    let hub = Hub::start_with(&place.dir.join("data"), |c| {
        c.access = Some(path);
        c.web_tls = Some(files);
        c.http = "127.0.0.1:0".parse().unwrap();
    })
    .await;
    let addr = hub.bound.http;
    let get = |authority: &Authority| {
        let pem = authority.pem.clone();
        tokio::task::spawn_blocking(move || {
            let certs: Vec<_> = ureq::tls::parse_pem(pem.as_bytes())
                .filter_map(|i| match i {
                    Ok(ureq::tls::PemItem::Certificate(c)) => Some(c),
                    _ => None,
                })
                .collect();
            let tls = ureq::tls::TlsConfig::builder().root_certs(certs.into()).build();
            let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
            agent.get(format!("https://{addr}/healthz")).call().map(|r| r.status().as_u16()).ok()
        })
    };
    assert_eq!(get(&first).await.unwrap(), Some(200));
    assert_eq!(get(&second).await.unwrap(), None, "of another authority");
    // Plain HTTP gets nothing.
    let plain = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        said
    });
    assert!(!plain.await.unwrap().starts_with(b"HTTP"));
    certificate(&second, &place.dir);
    let mut renewed = None;
    for _ in 0..100 {
        renewed = get(&second).await.unwrap();
        if renewed.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(renewed, Some(200), "renewed without a restart");
    hub.end().await;
}

/// An identity provider: its description, its key, and tokens for whoever was sent there with a challenge that fits.
struct Provider {
    issuer: String,
    key: String,
    /// The next ID token says this.
    says: Mutex<Says>,
}

#[derive(Clone)]
struct Says {
    audience: &'static str,
    nonce: String,
    challenge: String,
    groups: Vec<String>,
    age: i64,
}

const CLIENT_SECRET: &str = "the secret of the hub at the provider";

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Groups {
    groups: Vec<String>,
}
impl AdditionalClaims for Groups {}

impl Provider {
    fn signing_key(&self) -> CoreEdDsaPrivateSigningKey {
        let kid = Some(JsonWebKeyId::new("key-1".to_owned()));
        CoreEdDsaPrivateSigningKey::from_ed25519_pem(&self.key, kid).unwrap()
    }

    fn id_token(&self, says: &Says) -> String {
        let now = chrono::Utc::now() + chrono::Duration::seconds(says.age);
        let claims = IdTokenClaims::<Groups, CoreGenderClaim>::new(
            IssuerUrl::new(self.issuer.clone()).unwrap(),
            vec![Audience::new(says.audience.to_owned())],
            now + chrono::Duration::seconds(300),
            now,
            StandardClaims::new(SubjectIdentifier::new("1234".to_owned()))
                .set_preferred_username(Some(EndUserUsername::new("grace".to_owned()))),
            Groups { groups: says.groups.clone() },
        )
        .set_nonce(Some(Nonce::new(says.nonce.clone())));
        let token = IdToken::<
            Groups,
            CoreGenderClaim,
            CoreJweContentEncryptionAlgorithm,
            CoreJwsSigningAlgorithm,
        >::new(
            claims, &self.signing_key(), CoreJwsSigningAlgorithm::EdDsa, None::<&AccessToken>, None
        );
        token.unwrap().to_string()
    }

    /// Answers what the hub asks of it.
    fn answer(&self, request: &str) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        match request.split(' ').nth(1).unwrap_or_default() {
            "/.well-known/openid-configuration" => json!({
                "issuer": self.issuer, "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
                "jwks_uri": at("/keys"), "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["EdDSA"],
            }),
            "/keys" => json!({ "keys": [self.signing_key().as_verification_key()] }),
            "/token" => {
                let says = self.says.lock().unwrap().clone();
                let form = request.split("\r\n\r\n").nth(1).unwrap_or_default();
                let field =
                    |name: &str| form.split('&').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
                let verifier = PkceCodeVerifier::new(field("code_verifier").unwrap_or_default().to_owned());
                let fits = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
                if field("code") != Some("the-code") || fits.as_str() != says.challenge {
                    return json!({ "error": "invalid_grant" });
                }
                json!({ "access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": self.id_token(&says) })
            }
            other => panic!("the hub asked for {other}"),
        }
    }

    fn start() -> Arc<Provider> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let provider = Arc::new(Provider {
            issuer: format!("http://{}", listener.local_addr().unwrap()),
            key,
            says: Mutex::new(Says {
                audience: "selvedge",
                nonce: String::new(),
                challenge: String::new(),
                groups: vec![],
                age: 0,
            }),
        });
        let served = Arc::clone(&provider);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                let mut buf = [0u8; 4096];
                // Until the head, and as much of a body as it says.
                let whole = |r: &str| {
                    let (head, body) = r.split_once("\r\n\r\n")?;
                    let length = head
                        .to_lowercase()
                        .lines()
                        .find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
                    (body.len() >= length.unwrap_or(0)).then_some(())
                };
                while whole(&request).is_none() {
                    let n = stream.read(&mut buf).unwrap();
                    assert!(n > 0);
                    request.push_str(std::str::from_utf8(&buf[..n]).unwrap());
                }
                let body = served.answer(&request);
                let status = if body.get("error").is_some() { "400 Bad Request" } else { "200 OK" };
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        provider
    }
}

#[tokio::test]
async fn people_sign_in_elsewhere_and_the_groups_there_say_what_they_may() {
    let provider = Provider::start();
    let mut place = a_place("oidc");
    std::fs::write(place.dir.join("client.secret"), CLIENT_SECRET).unwrap();
    place.access.oidc = Some(crate::access::Oidc {
        issuer: provider.issuer.clone(),
        client_id: "selvedge".into(),
        client_secret_file: Some("client.secret".into()),
        public_url: "https://hub.example".into(),
        name_claim: "preferred_username".into(),
        role_claim: "groups".into(),
        roles: [("oncall".to_owned(), Role::Operator), ("staff".to_owned(), Role::Viewer)].into(),
        tenants: BTreeMap::new(),
        ca_file: None,
    });
    place.write();
    let hub = place.hub().await;
    let got = hub.ask("/api/v1/agents", vec![]).await;
    assert_eq!((got.status, got.json()["login"].as_str()), (401, Some("oidc")));

    // One sign-in: to the provider, and back with what it says.
    let sign_in = async |change: &dyn Fn(&mut Says), cookie: Option<&str>, code: &str| {
        let to = hub.ask("/api/v1/login/oidc?next=/incidents/inc-1", vec![]).await;
        assert_eq!(to.status, 303, "{}", to.body);
        let (_, query) = to.location.split_once("/authorize?").unwrap();
        let asked = |name: &str| {
            let found = query.split('&').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{name}: {query}")).to_owned()
        };
        assert_eq!((asked("code_challenge_method"), asked("client_id")), ("S256".into(), "selvedge".into()));
        assert!(asked("redirect_uri").contains("hub.example"), "{query}");
        {
            let mut says = provider.says.lock().unwrap();
            *says = Says {
                audience: "selvedge",
                nonce: asked("nonce"),
                challenge: asked("code_challenge"),
                groups: vec!["staff".into(), "oncall".into()],
                age: 0,
            };
            change(&mut says);
        }
        let bound = to.cookie.split(';').next().unwrap().to_owned();
        let cookie = vec![("cookie", cookie.map_or(bound, str::to_owned))];
        hub.ask(&format!("/api/v1/login/callback?state={}&code={code}", asked("state")), cookie).await
    };
    let fine: &dyn Fn(&mut Says) = &|_| {};
    let got = sign_in(fine, None, "the-code").await;
    assert_eq!((got.status, got.location.as_str()), (303, "/incidents/inc-1"), "{}", got.body);
    let cookie = got
        .cookie
        .lines()
        .find_map(|c| c.split(';').next().filter(|c| c.starts_with("__Host-selvedge=")))
        .unwrap()
        .to_owned();
    let me: MeView =
        serde_json::from_str(&hub.ask("/api/v1/me", vec![("cookie", cookie)]).await.body).unwrap();
    assert_eq!((me.name.as_str(), me.role.as_str(), me.auth.as_str()), ("grace", "operator", "session"));

    for (what, change, cookie, code, why) in [
        ("another browser", fine, Some("__Host-selvedge-sign-in=x"), "the-code", "sign_in_state"),
        ("another code", fine, None, "guessed", "id_token"),
        ("another nonce", &|s: &mut Says| s.nonce = "x".into(), None, "the-code", "id_token"),
        ("for another", &|s: &mut Says| s.audience = "other", None, "the-code", "id_token"),
        ("expired", &|s: &mut Says| s.age = -4_000, None, "the-code", "id_token"),
        ("another challenge", &|s: &mut Says| s.challenge = "x".into(), None, "the-code", "id_token"),
        ("no role", &|s: &mut Says| s.groups = vec!["cooks".into()], None, "the-code", "no_role"),
    ]
        as [(&str, &dyn Fn(&mut Says), Option<&str>, &str, &str); 7]
    {
        let got = sign_in(change, cookie, code).await;
        assert_eq!(got.location, format!("/login?error={why}"), "{what}: {}", got.body);
        assert!(!got.cookie.contains("__Host-selvedge="), "{what}: {}", got.cookie);
        hub.audited(&place, &format!("act = 'login' and outcome = 'refused' and reason = '{why}'"), 1).await;
    }
    let again = hub.ask("/api/v1/login/callback?state=x&code=the-code", vec![]).await;
    assert_eq!(again.location, "/login?error=sign_in_state", "a state nobody was sent with");
    let rows = hub.audited(&place, "act = 'login' and outcome = 'done' and who = 'grace'", 1).await;
    assert_eq!(rows[0][1], "operator");
    hub.end().await;
}
