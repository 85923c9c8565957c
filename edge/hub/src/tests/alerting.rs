//! A hub that tells a webhook and an Alertmanager of what it knows.

use super::{Hub, a_directory, seed};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a receiver was sent: path, head and body.
type Sent = Arc<Mutex<Vec<(String, String, String)>>>;

/// A receiver on a port of its own; the first `fails` messages are not taken. It ends with the test's process.
fn a_receiver(mut fails: usize) -> (String, Sent) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sent = Sent::default();
    let all = Arc::clone(&sent);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut request, mut buf) = (String::new(), [0u8; 4096]);
            let (head, body) = loop {
                let n = stream.read(&mut buf).unwrap();
                request.push_str(std::str::from_utf8(&buf[..n]).unwrap());
                let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                let length = head
                    .to_lowercase()
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    break (head.to_owned(), body.to_owned());
                }
            };
            let status = if fails > 0 { "503 Busy" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            if fails > 0 {
                fails -= 1;
                continue;
            }
            let path = head.split(' ').nth(1).unwrap().to_owned();
            all.lock().unwrap().push((path, head, body));
        }
    });
    (url, sent)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come");
}

#[tokio::test]
async fn receivers_are_told_once_whatever_happens_to_them_and_to_the_hub() {
    let dir = a_directory("alerting");
    std::fs::create_dir_all(&dir).unwrap();
    let data = dir.join("data");
    let seeded = data.clone();
    tokio::task::spawn_blocking(move || seed(&seeded)).await.unwrap();
    // The pager is busy when it is told first.
    let (pager, paged) = a_receiver(1);
    let (manager, managed) = a_receiver(0);
    std::fs::write(dir.join("pager.secret"), "a secret of the pager").unwrap();
    let file = dir.join("alerts.toml");
    let text = format!(
        "public_url = 'https://hub.example'\ngroup_wait = '0s'\n[[webhook]]\nname = 'pager'\nurl = '{pager}/page'\n\
         secret_file = 'pager.secret'\n[[alertmanager]]\nname = 'am'\nurl = '{manager}'\n"
    );
    std::fs::write(&file, text).unwrap();
    let start = || {
        let file = file.clone();
        Hub::start_with(&data, move |c| c.alerts = Some(file))
    };
    let hub = start().await;
    let count = |sent: &Sent| sent.lock().unwrap().len();
    until("the pager's message", || count(&paged) == 1).await;
    until("Alertmanager's", || count(&managed) == 1).await;
    let (path, head, body) = paged.lock().unwrap()[0].clone();
    assert_eq!(path, "/page");
    let message: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&message["version"], &message["status"]), (&"4".into(), &"firing".into()));
    let alert = &message["alerts"][0];
    assert_eq!(alert["labels"]["component"], "p0-leaf1:p0-spine0");
    assert_eq!(alert["generatorURL"], "https://hub.example/incidents/inc-1");
    // The signature is one a hook of ours would take.
    let signature = head.lines().find_map(|l| l.strip_prefix("x-selvedge-signature: ")).unwrap();
    let (t, v1) = signature.split_once(",v1=").unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a secret of the pager");
    let mac = ring::hmac::sign(&key, format!("{}.{body}", t.strip_prefix("t=").unwrap()).as_bytes());
    assert_eq!(v1, mac.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>());
    let (path, _, body) = managed.lock().unwrap()[0].clone();
    assert_eq!(path, "/api/v2/alerts");
    let alerts: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(alerts[0]["labels"]["incident"], "inc-1");
    assert!(alerts[0]["endsAt"].as_str() > alerts[0]["startsAt"].as_str());
    let metrics = hub.get("/metrics").await.1;
    for line in ["alerts_sent_total{receiver=\"pager\"} 1", "alerts_failed_total{receiver=\"pager\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    hub.end().await;

    // The next hub knows what was told: the pager hears nothing until the incident ends.
    let hub = start().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(count(&paged), 1, "{:?}", paged.lock().unwrap());
    let (status, text) =
        hub.post("/api/v1/incidents/inc-1/close", "{\"note\": \"replaced the optic\"}").await;
    assert_eq!(status, 200, "{text}");
    until("the end", || count(&paged) == 2).await;
    let message: Value = serde_json::from_str(&paged.lock().unwrap()[1].2).unwrap();
    assert_eq!(
        (&message["status"], &message["alerts"][0]["status"]),
        (&"resolved".into(), &"resolved".into())
    );
    let sql =
        "{\"sql\": \"select receiver, status, outcome from alert where receiver = 'pager' order by ts\"}";
    // A row is written after its message.
    let mut rows = Value::Null;
    for _ in 0..100 {
        let all: Value = serde_json::from_str(&hub.post("/api/v1/query", sql).await.1).unwrap();
        rows = all["rows"].clone();
        if rows.as_array().is_some_and(|r| r.len() >= 3) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        rows,
        serde_json::json!([
            ["pager", "firing", "failed"],
            ["pager", "firing", "sent"],
            ["pager", "resolved", "sent"]
        ])
    );
    hub.end().await;
}
