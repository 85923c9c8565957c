//! gNMI tried without a device, beside one made here, and over broken and encrypted connections.

use super::proto::g_nmi_server::{GNmi, GNmiServer};
use super::proto::typed_value::Value;
use super::proto::{
    Notification, SubscribeRequest, SubscribeResponse, TypedValue, Update, subscribe_request,
    subscribe_response,
};
use super::session::Desk;
use super::*;
use crate::intake::tests::intake;
use crate::rows::{Cabling, Dropped, EntityKind, Metric, Receiver, Row};
use crate::setting::tests::{authority, signed};
use proptest::prelude::*;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use wire::{Counter, Nanos};

fn update(at: &str, value: Value) -> Update {
    Update { path: path(at), val: Some(TypedValue { value: Some(value) }), duplicates: 0 }
}

fn notification(timestamp: u64, prefix: &str, update: Vec<Update>) -> Notification {
    Notification { timestamp: timestamp as i64, prefix: path(prefix), update, ..Notification::default() }
}

fn drain(rows: &mut mpsc::Receiver<Row>) -> Vec<Row> {
    let mut out = Vec::new();
    while let Ok(row) = rows.try_recv() {
        out.push(row);
    }
    out
}

fn metrics(rows: &[Row]) -> Vec<&Metric> {
    rows.iter().filter_map(|r| if let Row::Metric(m) = r { Some(m) } else { None }).collect()
}

const NOW: Nanos = Nanos::from_secs(1_700_000_000);

fn desk(intake: &Arc<Intake>) -> Desk {
    Desk::new("p0-leaf0", Duration::from_secs(300), Arc::clone(intake))
}

#[test]
fn paths_are_read_with_their_keys() {
    let p = path(r"/a/b[k=v/1][l=x\]y]/c").unwrap();
    let said: Vec<_> = p.elem.iter().map(|e| (&*e.name, e.key.len())).collect();
    assert_eq!(said, [("a", 0), ("b", 2), ("c", 0)]);
    assert_eq!((&*p.elem[1].key["k"], &*p.elem[1].key["l"]), ("v/1", "x]y"));
    assert_eq!(path("/").map(|p| p.elem.len()), Some(0));
    for bad in ["", "a", "/a//b", "/a[k", "/a[k=v", "/a[k=v]b"] {
        assert_eq!(path(bad), None, "{bad}");
    }
}

#[test]
fn typed_values_become_words_and_observations() {
    let (intake, mut rows) = intake(1_000);
    let desk = desk(&intake);
    let counters = |at: Nanos, n: u64| {
        notification(
            at.0,
            "/interfaces/interface[name=spine1]/state/counters",
            vec![
                update("/in-fcs-errors", Value::UintVal(n)),
                update("/in-pkts", Value::UintVal(1_000 * n)),
                update("/out-discards", Value::StringVal((2 * n).to_string())),
            ],
        )
    };
    desk.take(NOW, &counters(NOW, 5));
    let later = NOW + Nanos::from_secs(10);
    desk.take(later, &counters(later, 8));
    let rows = drain(&mut rows);
    let names: Vec<_> = metrics(&rows).iter().map(|m| (&*m.name, m.value)).collect();
    assert_eq!(names[..3], [("fcs_errors", 5.0), ("in_packets", 5_000.0), ("out_discards", 10.0)]);
    let mut means: Vec<_> = rows
        .iter()
        .filter_map(|r| if let Row::Observation(o) = r { Some((o.counter, o.delta, o.of)) } else { None })
        .collect();
    means.sort();
    assert_eq!(means, [(Counter::FrameError, 3, 3_000), (Counter::QueueDrop, 6, 0)]);
}

#[test]
fn json_is_taken_apart_with_lists_and_modules() {
    let (intake, mut rows) = intake(1_000);
    let json = br#"{"openconfig-interfaces:interface":[{"name":"spine1","state":{"oper-status":"DOWN",
        "counters":{"in-errors":"18446744073709551615","in-octets":7,"last-clear":null}},
        "openconfig-if-ethernet:ethernet":{"state":{"port-speed":"openconfig-if-ethernet:SPEED_400GB"}}}]}"#;
    let n = notification(NOW.0, "/", vec![update("/interfaces", Value::JsonIetfVal(json.to_vec()))]);
    desk(&intake).take(NOW, &n);
    let rows = drain(&mut rows);
    let mut said: Vec<_> = metrics(&rows).iter().map(|m| (&*m.name, &*m.entity, m.value)).collect();
    said.sort_by_key(|s| s.0);
    let big = u64::MAX as f64;
    assert_eq!(
        said,
        [
            ("in_errors", "spine1", big),
            ("in_octets", "spine1", 7.0),
            ("oper_status", "spine1", 0.0),
            ("speed_bps", "spine1", 4e11)
        ]
    );
    // The list's key itself, and the null.
    assert_eq!(intake.counted(Receiver::Gnmi).dropped(Dropped::Unsupported), 2);
}

#[test]
fn queues_optics_and_sonics_counters() {
    let (intake, mut rows) = intake(1_000);
    let desk = desk(&intake);
    let queue = "/qos/interfaces/interface[interface-id=spine1]/output/queues/queue[name=3]/state";
    let optic = "/components/component[name=xcvr7]/transceiver/physical-channels/channel[index=0]/state";
    let name =
        update("/interfaces/interface[name=spine1]/state/transceiver", Value::StringVal("xcvr7".to_owned()));
    desk.take(NOW, &notification(NOW.0, "/", vec![name]));
    desk.take(NOW, &notification(NOW.0, queue, vec![update("/dropped-pkts", Value::UintVal(4))]));
    let power = (-2.5f32).to_be_bytes().to_vec();
    desk.take(NOW, &notification(NOW.0, optic, vec![update("/input-power/instant", Value::BytesVal(power))]));
    let sonic =
        br#"{"SAI_PORT_STAT_PFC_3_RX_PKTS":"9","SAI_PORT_STAT_PFC_3_RX_PAUSE_DURATION_US":"2"}"#.to_vec();
    desk.take(NOW, &notification(NOW.0, "/", vec![update("/COUNTERS/spine1", Value::JsonIetfVal(sonic))]));
    let marked = update(
        "/COUNTERS/spine1/Queues/spine1:3/SAI_QUEUE_STAT_WRED_ECN_MARKED_PACKETS",
        Value::StringVal("6".into()),
    );
    desk.take(NOW, &notification(NOW.0, "/", vec![marked]));
    let rows = drain(&mut rows);
    let said: Vec<_> =
        metrics(&rows).iter().map(|m| (&*m.name, &*m.entity, m.value, m.component.is_some())).collect();
    assert_eq!(
        said,
        [
            ("queue_drop_packets", "spine1/queue3", 4.0, true),
            ("rx_power_dbm", "spine1", -2.5, true),
            ("pfc_paused_ns_3", "spine1", 2_000.0, true),
            ("pfc_in_frames_3", "spine1", 9.0, true),
            ("ecn_marked_packets", "spine1/queue3", 6.0, true),
        ]
    );
}

#[test]
fn neighbours_told_in_parts_are_compared_when_whole() {
    let (intake, mut rows) = intake(1_000);
    let desk = desk(&intake);
    let state = "/lldp/interfaces/interface[name=spine1]/neighbors/neighbor[id=1]/state";
    let text =
        |leaf: &str, s: &str| notification(NOW.0, state, vec![update(leaf, Value::StringVal(s.to_owned()))]);
    desk.take(NOW, &text("/system-name", "p0-spine0"));
    assert_eq!(drain(&mut rows), []);
    desk.take(NOW, &text("/port-id", "leaf0"));
    let [Row::Neighbour(n)] = &drain(&mut rows)[..] else { panic!() };
    assert_eq!(n.verdict, Cabling::Other("p0-leaf0:p0-spine1".to_owned()));
    // Gone, and back with the right name.
    let gone = Notification { delete: vec![path(state).unwrap()], ..Notification::default() };
    desk.take(NOW, &gone);
    desk.take(NOW, &text("/port-id", "leaf0"));
    desk.take(NOW, &text("/system-name", "p0-spine1"));
    let [Row::Neighbour(n)] = &drain(&mut rows)[..] else { panic!() };
    assert_eq!(n.verdict, Cabling::Same);
}

#[test]
fn a_device_with_a_wrong_clock_is_heard_by_ours() {
    let (intake, mut rows) = intake(10);
    let n = notification(
        5,
        "/interfaces/interface[name=spine1]/state",
        vec![update("/mtu", Value::UintVal(9_000))],
    );
    desk(&intake).take(NOW, &n);
    let [Row::Metric(m)] = &drain(&mut rows)[..] else { panic!() };
    assert_eq!(
        (m.at, &*m.name, m.entity_kind),
        (NOW, "interfaces/interface/state/mtu", EntityKind::Interface)
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::UintVal),
        any::<i64>().prop_map(Value::IntVal),
        any::<f64>().prop_map(Value::DoubleVal),
        "\\PC{0,12}".prop_map(Value::StringVal),
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(Value::BytesVal),
        "[\\[\\]{}:,\"a1 ]{0,40}".prop_map(|s| Value::JsonIetfVal(s.into_bytes())),
        (any::<i64>(), any::<u32>())
            .prop_map(|(digits, precision)| Value::DecimalVal(proto::Decimal64 { digits, precision })),
    ]
}

proptest! {
    #[test]
    fn any_notification_is_an_outcome(
        elems in proptest::collection::vec(
            (prop_oneof![Just("interfaces"), Just("interface"), Just("state"), Just("counters"), Just("lldp"),
                Just("COUNTERS"), Just("Queues"), Just("qos"), Just("components"), Just("transceiver"), Just("a:b")],
             "[a-z0-9:/]{0,6}"), 0..9),
        value in any_value(), timestamp: i64,
    ) {
        let (intake, _rows) = intake(100);
        let elem = elems.into_iter().map(|(name, key)| proto::PathElem {
            name: name.to_owned(),
            key: [("name".to_owned(), key)].into(),
        }).collect();
        let path = Some(proto::Path { elem, ..Default::default() });
        let update = vec![Update { path, val: Some(TypedValue { value: Some(value) }), duplicates: 0 }];
        desk(&intake).take(NOW, &Notification { timestamp, update, ..Default::default() });
    }

    #[test]
    fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        use prost::Message as _;
        if let Ok(SubscribeResponse { response: Some(subscribe_response::Response::Update(n)) }) = SubscribeResponse::decode(&*bytes) {
            let (intake, _rows) = intake(100);
            desk(&intake).take(NOW, &n);
        }
    }
}

#[test]
fn json_that_is_deep_or_wide_is_cut() {
    let (intake, _rows) = intake(100_000);
    let desk = desk(&intake);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
    desk.take(NOW, &notification(NOW.0, "/", vec![update("/x", Value::JsonVal(deep.into_bytes()))]));
    let wide: Vec<String> = (0..value::LEAVES_MAX + 5).map(|n| format!("\"l{n}\":1")).collect();
    let wide = format!("{{{}}}", wide.join(","));
    desk.take(NOW, &notification(NOW.0, "/", vec![update("/x", Value::JsonVal(wide.into_bytes()))]));
    let c = intake.counted(Receiver::Gnmi);
    assert_eq!((c.kept, c.dropped(Dropped::Unsupported)), (value::LEAVES_MAX as u64, 6));
}

/// A switch that tells what it is told to, and refuses LLDP.
struct Device {
    /// What was asked, and with whose name.
    asked: mpsc::Sender<(SubscribeRequest, Option<String>)>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GNmi for Device {
    type SubscribeStream = Answers;
    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let name = request.metadata().get("username").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut requests = request.into_inner();
        let first = requests.message().await?.ok_or(Status::invalid_argument("nothing asked"))?;
        let Some(subscribe_request::Request::Subscribe(list)) = &first.request else {
            return Err(Status::invalid_argument("no subscription"));
        };
        let root = list.subscription[0].path.as_ref().unwrap().elem[0].name.clone();
        let once = list.mode == proto::subscription_list::Mode::Once as i32;
        self.asked.send((first, name)).await.unwrap();
        if root == "lldp" {
            return Err(Status::unimplemented("no such model"));
        }
        let (put, answers) = mpsc::channel(8);
        tokio::spawn(async move {
            let now = crate::intake::now();
            let n = notification(
                now.0,
                "/interfaces/interface[name=spine1]/state",
                vec![update("/oper-status", Value::StringVal("UP".to_owned()))],
            );
            let say = |r| Ok(SubscribeResponse { response: Some(r) });
            let _ = put.send(say(subscribe_response::Response::Update(n))).await;
            let _ = put.send(say(subscribe_response::Response::SyncResponse(true))).await;
            if !once {
                // Held open until the other side goes.
                let _ = requests.message().await;
                put.closed().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

struct Served {
    address: String,
    asked: mpsc::Receiver<(SubscribeRequest, Option<String>)>,
    /// It runs by itself until this is dropped, and its connections break with it.
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn serve(tls: Option<ServerTlsConfig>, at: &str) -> Served {
    let listener = std::net::TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (put, asked) = mpsc::channel(100);
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let router = server.add_service(GNmiServer::new(Device { asked: put }));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::select! {
                served = router.serve_with_incoming(TcpListenerStream::new(listener)) => served.unwrap(),
                _ = stopped => {}
            }
        });
    });
    Served { address, asked, _stop: stop }
}

fn config(address: &str, more: &str) -> Config {
    let text = format!("targets={{p0-leaf0='{address}'}}\n{more}");
    setting::parse(&text).unwrap()
}

/// The next row that is a number of this name.
async fn next(rows: &mut mpsc::Receiver<Row>, name: &str) -> f64 {
    loop {
        if let Row::Metric(m) = rows.recv().await.unwrap()
            && m.name == name
        {
            return m.value;
        }
    }
}

#[tokio::test]
async fn a_device_is_asked_and_asked_again_when_it_comes_back() {
    let (intake, mut rows) = intake(1_000);
    let mut served = serve(None, "127.0.0.1:0");
    let dir = std::env::temp_dir().join(format!("selvedge-gnmi-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("password"), "geheim\n").unwrap();
    let more = "insecure=true\nusername='watcher'\npassword_file='password'\nencoding='json_ietf'\n\
                [[subscription]]\npath='/lldp/interfaces'\n\
                [[subscription]]\npath='/interfaces/interface[name=*]/state/oper-status'\nmode='on_change'\nevery='30s'";
    let _running = start(&config(&served.address, more), &dir, &intake).unwrap();
    let mut asked = [served.asked.recv().await.unwrap(), served.asked.recv().await.unwrap()];
    asked.sort_by_key(|(r, _)| match &r.request {
        Some(subscribe_request::Request::Subscribe(l)) => l.subscription[0].mode,
        _ => 9,
    });
    let (SubscribeRequest { request: Some(subscribe_request::Request::Subscribe(list)) }, name) = &asked[0]
    else {
        panic!()
    };
    assert_eq!(name.as_deref(), Some("watcher"));
    assert_eq!((list.encoding, list.mode), (proto::Encoding::JsonIetf as i32, 0));
    assert_eq!(list.subscription[0].mode, proto::SubscriptionMode::OnChange as i32);
    assert_eq!(list.subscription[0].heartbeat_interval, 30_000_000_000);
    // One path is refused, the other is told.
    assert_eq!(next(&mut rows, "up").await, 1.0);
    assert_eq!(next(&mut rows, "oper_status").await, 1.0);
    // It goes away and comes back at the same address.
    let address = served.address.clone();
    drop(served);
    assert_eq!(next(&mut rows, "up").await, 0.0);
    // Until the listener is gone its address is taken.
    while std::net::TcpListener::bind(&address).is_err() {}
    let _again = serve(None, &address);
    while next(&mut rows, "up").await == 0.0 {}
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn encrypted_and_only_by_the_named_authority() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (ours, other) = (authority("ours"), authority("other"));
    let (cert, key) = signed("leaf0.example", &ours);
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    let served = serve(Some(tls), "127.0.0.1:0");
    let dir = std::env::temp_dir().join(format!("selvedge-gnmi-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ours.pem"), ours.pem()).unwrap();
    std::fs::write(dir.join("other.pem"), other.pem()).unwrap();
    for (file, up) in [("ours.pem", 1.0), ("other.pem", 0.0)] {
        let (intake, mut rows) = intake(100);
        let more = format!("ca_file='{file}'\nserver_name='leaf0.example'");
        let _running = start(&config(&served.address, &more), &dir, &intake).unwrap();
        assert_eq!(next(&mut rows, "up").await, up, "{file}");
    }
    drop(served);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn settings_that_cannot_be() {
    let (intake, _rows) = intake(1);
    for (more, says) in [
        ("", "expected `ca_file`"),
        ("insecure=true\nca_file='x'", "expected one of the two"),
        ("insecure=true\nusername='x'", "`password_file`"),
        ("ca_file='/nowhere/ca.pem'", "cannot be read"),
        ("insecure=true\n[[subscription]]\npath='interfaces'", "expected one such as"),
    ] {
        let said =
            start(&config("127.0.0.1:1", more), Path::new("."), &intake).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
    let wrong = setting::parse::<Config>("insecure=true\nskip_verify=true").unwrap_err();
    assert_eq!((wrong.line, wrong.column), (2, 1));
}
