//! Scrapes tried by texts, and beside servers that answer well, badly, and with encryption.

use super::*;
use crate::intake::tests::intake;
use crate::rows::Row;
use crate::setting::tests::{authority, signed};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use tokio::sync::mpsc;

fn scraper(url: &str, config: Config) -> (Scraper, mpsc::Receiver<Row>, Arc<Intake>) {
    let (intake, rows) = intake(10_000);
    (Scraper::new(&config, ("host0", url), Path::new("."), Arc::clone(&intake)).unwrap(), rows, intake)
}

fn metrics(rows: &mut mpsc::Receiver<Row>) -> Vec<Metric> {
    let mut out = Vec::new();
    while let Ok(row) = rows.try_recv() {
        if let Row::Metric(m) = row {
            out.push(m);
        }
    }
    out
}

/// A server that gives every connection the same answer.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                heard.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn known_metrics_become_words_of_the_port() {
    let (scraper, mut rows, intake) = scraper("http://x/", Config::default());
    let body = "# TYPE node_network_receive_errs_total counter\nnode_network_receive_errs_total{device=\"p0\"} 4\n\
                node_network_up{device=\"p0\"} 1\nnode_network_mtu_bytes{device=\"p0\"} 9000\n\
                node_load1 0.5\nnode_cpu_seconds_total{cpu=\"0\"} 1\nnode_load1 NaN\n%%%\n";
    assert_eq!(scraper.take(Nanos(5), Form::Prometheus, body), Turn::Up(4));
    let got = metrics(&mut rows);
    let said: Vec<_> = got.iter().map(|m| (&*m.name, &*m.entity, m.value, m.cumulative)).collect();
    assert_eq!(
        said,
        [
            ("in_errors", "p0", 4.0, true),
            ("oper_status", "p0", 1.0, false),
            ("node_network_mtu_bytes", "p0", 9000.0, false),
            ("node_load1", "", 0.5, false),
        ]
    );
    let f = Arc::clone(intake.names().fabric());
    assert_eq!(got[0].component.map(|c| f.component_name(c)).as_deref(), Some("p0-leaf0:host0"));
    assert_eq!(got[3].component.map(|c| f.component_name(c)).as_deref(), Some("host0"));
    let c = intake.counted(Receiver::Scrape);
    assert_eq!((c.heard, c.kept), (7, 4));
    let dropped = [Dropped::NotWanted, Dropped::NoNumber, Dropped::Malformed].map(|w| c.dropped(w));
    assert_eq!(dropped, [1, 1, 1]);
}

#[test]
fn a_target_is_up_or_down() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\nnode_load1 1\n";
    let (up, mut rows, _) = scraper(&server(ok), Config::default());
    assert_eq!(up.turn(), Turn::Up(1));
    let said: Vec<_> = metrics(&mut rows).into_iter().map(|m| (m.name, m.value)).collect();
    assert_eq!(said, [("node_load1".to_owned(), 1.0), ("up".to_owned(), 1.0)]);

    let no = "HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (down, mut rows, _) = scraper(&server(no), Config::default());
    assert!(matches!(down.turn(), Turn::Down(why) if why.contains("503")));
    assert_eq!(metrics(&mut rows)[0].value, 0.0);

    let (long, _rows, intake) = scraper(&server(ok), Config { body_bytes_max: 5, ..Config::default() });
    assert!(matches!(long.turn(), Turn::Down(_)));
    assert_eq!(intake.counted(Receiver::Scrape).dropped(Dropped::TooLarge), 1);
}

/// A server with encryption that wants a certificate of an authority, and answers with a load.
fn encrypted(cert: &str, key: &str, clients: &str) -> u16 {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::new(config.clone())).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream.unwrap());
            let mut heard = [0; 4_096];
            let n = stream.read(&mut heard).unwrap_or(0);
            let bearer = String::from_utf8_lossy(&heard[..n]).contains("authorization: Bearer geheim");
            let body = if bearer { "node_load1 1\n" } else { "" };
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

#[test]
fn an_exporter_behind_encryption_is_asked_with_certificate_and_token() {
    let (ours, other) = (authority("ours"), authority("other"));
    let (cert, key) = signed("localhost", &ours);
    let port = encrypted(&cert, &key, &ours.pem());
    let dir = std::env::temp_dir().join(format!("selvedge-scrape-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (cert, key) = signed("hub.example", &ours);
    for (file, text) in [
        ("ours", &*ours.pem()),
        ("other", &*other.pem()),
        ("cert", &*cert),
        ("key", &*key),
        ("token", "geheim\n"),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let file = |name: &str| Some(PathBuf::from(name));
    let all = Config {
        ca_file: file("ours"),
        cert_file: file("cert"),
        key_file: file("key"),
        token_file: file("token"),
        ..Config::default()
    };
    let turn = |config: Config| {
        let (intake, _rows) = intake(10);
        let url = format!("https://localhost:{port}/metrics");
        Scraper::new(&config, ("host0", &url), &dir, intake).unwrap().turn()
    };
    assert_eq!(turn(all.clone()), Turn::Up(1));
    assert!(matches!(turn(Config { ca_file: file("other"), ..all.clone() }), Turn::Down(_)));
    assert!(matches!(turn(Config { cert_file: None, key_file: None, ..all }), Turn::Down(_)));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_answer_has_so_many_samples_and_no_more() {
    let (scraper, _rows, intake) = scraper("http://x/", Config { samples_max: 2, ..Config::default() });
    assert_eq!(scraper.take(Nanos(5), Form::Prometheus, &"node_load1 1\n".repeat(5)), Turn::Up(2));
    assert_eq!(intake.counted(Receiver::Scrape).dropped(Dropped::TooMany), 3);
}

#[test]
fn settings_that_cannot_be() {
    let config: Config = setting::parse("every='5s'\n[targets]\nhost0='http://x'").unwrap();
    assert_eq!((config.every, config.targets.len()), (Duration::from_secs(5), 1));
    let wrong = setting::parse::<Config>("every='5s'\ninsecure=true").unwrap_err();
    assert_eq!((wrong.line, wrong.column), (2, 1));
    let (intake, _rows) = intake(1);
    let wrong = |config: &Config, url| {
        let made = Scraper::new(config, ("host0", url), Path::new("."), Arc::clone(&intake));
        made.map(|_| ()).unwrap_err().to_string()
    };
    assert!(wrong(&config, "ftp://x").contains("http://"));
    let half = Config { cert_file: Some("x".into()), ..config };
    assert!(wrong(&half, "https://x").contains("`key_file`"));
}

#[test]
fn a_time_stamp_of_another_year_is_not_believed() {
    let (scraper, mut rows, _) = scraper("http://x/", Config::default());
    let now = Nanos::from_secs(1_700_000_000);
    scraper.take(
        now,
        Form::Prometheus,
        "node_load1 1 1699999999000\nnode_load1 2 9999999999000\nnode_load1 3 5\n",
    );
    let at: Vec<_> = metrics(&mut rows).iter().map(|m| m.at).collect();
    assert_eq!(at, [Nanos::from_secs(1_699_999_999), now, now]);
}
