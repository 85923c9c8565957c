//! The lab through its command line, with real processes: delay lines, crashes, what is left behind.
//!
//! It needs root and a kernel that can do it; without, each test says why and passes.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SELVEDGE: &str = env!("CARGO_BIN_EXE_selvedge");
const FABRIC: &str = "name = \"cli\"\nmode = \"srv6\"\nplanes = 1\nleaves = 2\nspines = 2\nhosts = 4\n";

macro_rules! need_kernel {
    () => {
        let missing = kernel::capabilities::missing(&kernel::capabilities::Feature::ALL);
        if !missing.is_empty() {
            let needs: Vec<_> = missing.iter().map(|f| f.need()).collect();
            eprintln!("skipped: it needs {}", needs.join(", and "));
            return;
        }
    };
}

/// A lab of this test's own.
struct Lab {
    name: String,
    file: String,
}

impl Lab {
    fn new(test: &str, text: &str) -> Lab {
        let name = format!("{test}-{}", std::process::id());
        let file = std::env::temp_dir().join(format!("{name}.toml")).display().to_string();
        std::fs::write(&file, text).unwrap();
        Lab { name, file }
    }
    fn up(test: &str) -> Lab {
        let lab = Lab::new(test, FABRIC);
        lab.ok(&["up", &lab.file, "--bare"]);
        lab
    }
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(SELVEDGE);
        command.args(["lab", arguments[0], "--name", &self.name]).args(&arguments[1..]);
        command
    }
    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let out = self.output(arguments);
        let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{arguments:?}: {said}{wrong}");
        said.into_owned()
    }
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }
    fn counters(&self) -> Value {
        self.json(&["faults"])[0]["counted"][0]["counters"].clone()
    }
    fn namespaces(&self) -> usize {
        let prefix = format!("{}-", self.name);
        kernel::netns::list().unwrap().iter().filter(|n| n.starts_with(&prefix)).count()
    }
    /// Processes that carry this lab's mark.
    fn processes(&self) -> BTreeSet<String> {
        let mark = format!("SELVEDGE_LAB_MEMBER=/run/selvedge/lab/{}\0", self.name);
        let numbers =
            std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
        numbers
            .filter(|pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                String::from_utf8_lossy(&environment).contains(&mark)
            })
            .collect()
    }
    #[track_caller]
    fn nothing_left(&self) {
        assert_eq!(self.namespaces(), 0);
        assert!(!Path::new("/run/selvedge/lab").join(&self.name).exists());
        assert_eq!(self.processes(), BTreeSet::new());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.output(&["down"]);
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Datagrams one way, each with its number; the numbers in the order they came and the seconds each took.
fn datagrams(lab: &Lab, count: u32) -> Vec<(u32, f64)> {
    let bind = |host: &str, address: &str| {
        let _inside = kernel::netns::enter(&format!("{}-{host}", lab.name)).unwrap();
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    };
    let (sender, receiver) = (bind("host0", "fd5e::1"), bind("host1", "fd5e::1:0:0:0:1"));
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let begin = Instant::now();
    let reader = std::thread::spawn(move || {
        let mut datagram = [0; 4];
        let mut came = Vec::new();
        while came.len() < count as usize && receiver.recv(&mut datagram).is_ok() {
            came.push((u32::from_be_bytes(datagram), begin.elapsed().as_secs_f64()));
        }
        came
    });
    let sent: Vec<f64> = (0..count)
        .map(|number| {
            let now = Instant::now();
            sender.send(&number.to_be_bytes()).unwrap();
            // a little apart, so that a delay line can take its turns
            while now.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
            (now - begin).as_secs_f64()
        })
        .collect();
    let came = reader.join().unwrap();
    came.into_iter().map(|(number, at)| (number, at - sent[number as usize])).collect()
}

/// Nobody probes; what the transport's packets saw is at the hub, path by path, and is what the fault did.
#[test]
fn the_transport_tells_of_every_path() {
    need_kernel!();
    let lab = Lab::new("told", FABRIC);
    lab.ok(&["up", &lab.file, "--packets-per-second", "0"]);
    lab.ok(&["fault", "p0-leaf0:p0-spine1", "drop", "2%"]);
    let ask = |arguments: &[&str]| -> Value {
        let out =
            Command::new(SELVEDGE).args(arguments).args(["--json", "--lab", &lab.name]).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let done =
        ask(&["bench", "collective", "--between", "host0", "host2", "--seconds", "2", "--kibibytes", "512"]);
    let row = &done["rows"][0];
    assert_eq!((&row["exact_paths"], &row["observations_dropped"]), (&true.into(), &0.into()), "{row}");
    let counted = lab.counters();
    let (seen, dropped) = (counted["seen"].as_u64().unwrap(), counted["dropped"].as_u64().unwrap());
    // the last window is on its way: until the healthy path's packets are all there or it is late
    let begin = Instant::now();
    let told = loop {
        let all = ask(&["paths", "host0", "host2"]);
        let of = |i: usize, what: &str| all["paths"][i]["measured"][what].as_u64().unwrap_or(0);
        let told = [0, 1].map(|i| (of(i, "sent"), of(i, "lost")));
        if told[1].1 > dropped / 2 || begin.elapsed() > Duration::from_secs(5) {
            break told;
        }
        std::thread::yield_now();
    };
    let [well, sick] = told;
    assert!(well.0 > 1_000 && well.1 == 0, "{told:?}");
    // acknowledgements cross the link too, and are lost and not told
    assert!(dropped > 0 && sick.1 > dropped / 2 && sick.1 <= dropped, "{told:?}: {dropped} were dropped");
    assert!(sick.0 > seen / 2 && sick.0 <= seen, "{told:?}: {seen} crossed the link");
}

#[test]
fn a_delay_line_delays_and_keeps_the_order() {
    need_kernel!();
    let lab = Lab::up("delay");
    lab.ok(&["fault", "p0-leaf0:host1", "delay", "20ms", "jitter", "5ms"]);
    let came = datagrams(&lab, 300);
    assert_eq!(came.len(), 300);
    assert!(came.iter().all(|(_, took)| *took >= 0.02), "each took 20 ms or more");
    assert!(came.is_sorted_by_key(|(number, _)| *number), "jitter does not reorder");
    let counted = lab.counters();
    assert_eq!(counted["diverted"], counted["returned"]);
    assert_eq!(lab.processes().len(), 1);
    lab.ok(&["heal", "--all"]);
    assert_eq!(lab.processes().len(), 0, "the delay line is gone");
    let came = datagrams(&lab, 100);
    assert_eq!(came.len(), 100);
    lab.ok(&["down"]);
    lab.nothing_left();
}

#[test]
fn reordering_holds_back_a_share() {
    need_kernel!();
    let lab = Lab::up("reorder");
    lab.ok(&["fault", "p0-leaf0:host1", "reorder", "10%", "delay", "2ms"]);
    let count = 4000;
    let came = datagrams(&lab, count);
    assert_eq!(came.len(), count as usize, "held back is not lost");
    let (mut highest, mut late) = (0, 0);
    for (number, _) in &came {
        late += u32::from(*number < highest);
        highest = highest.max(*number);
    }
    let counted = lab.counters();
    let share = counted["diverted"].as_f64().unwrap() / counted["seen"].as_f64().unwrap();
    assert!((0.075..0.125).contains(&share), "{share}");
    // some of those held back at the end have nobody left to overtake them
    assert!((0.07..0.13).contains(&(f64::from(late) / f64::from(count))), "{late} of {count} came late");
}

#[test]
fn a_lab_whose_making_was_killed_is_cleared_away_by_the_next() {
    need_kernel!();
    let big = FABRIC.replace("hosts = 4", "hosts = 64").replace("planes = 1", "planes = 2");
    let lab = Lab::new("killed", &big);
    let mut up = lab.command(&["up", &lab.file, "--bare"]).stdout(Stdio::null()).spawn().unwrap();
    while lab.namespaces() < 10 {
        assert!(up.try_wait().unwrap().is_none(), "it was made before it could be killed");
        std::thread::yield_now();
    }
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(lab.namespaces() >= 10, "the crash left something");
    lab.ok(&["up", &lab.file, "--bare"]);
    assert_eq!(lab.json(&["inspect"])["hosts"].as_array().unwrap().len(), 64);
    let again = lab.output(&["up", &lab.file, "--bare"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up already"));
    lab.ok(&["down"]);
    lab.nothing_left();
}

#[test]
fn agents_and_hub_come_and_go_with_the_lab() {
    need_kernel!();
    let lab = Lab::new("whole", FABRIC);
    let up: Value = serde_json::from_str(&lab.ok(&["up", &lab.file, "--json"])).unwrap();
    assert_eq!(up["agents"], 4);
    assert_eq!(
        lab.processes().len(),
        7,
        "a hub, the sensors, an agent on every host, and who starts them again"
    );
    lab.ok(&["fault", "host1", "agent-stop"]);
    lab.ok(&["fault", "host2", "cpu-stall", "stopped", "50ms", "period", "200ms"]);
    assert_eq!(lab.processes().len(), 8, "and who stalls a host");
    lab.ok(&["down"]);
    lab.nothing_left();
}

/// The number a member of a lab runs under, by the lab's own record.
fn pid(lab: &Lab, member: &str) -> u64 {
    let path = Path::new("/run/selvedge/lab").join(&lab.name).join("lab.json");
    let state: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    match member {
        "hub" => state["hub"]["pid"].as_u64().unwrap(),
        host => {
            let agents = state["agents"].as_array().unwrap();
            agents.iter().find(|a| a["host"] == host).unwrap()["pid"].as_u64().unwrap()
        }
    }
}

fn incidents(lab: &Lab) -> Option<Vec<Value>> {
    let out =
        Command::new(SELVEDGE).args(["incidents", "--json", "--lab", &lab.name]).output().unwrap().stdout;
    serde_json::from_slice(&out).ok()
}

#[track_caller]
fn within<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `kill -9`, and wait until it runs under another number.
fn kill(lab: &Lab, members: &[&str]) {
    let before: Vec<u64> = members.iter().map(|m| pid(lab, m)).collect();
    for pid in &before {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    for (member, before) in members.iter().zip(before) {
        within(20, member, || (pid(lab, member) != before).then_some(()));
    }
}

#[test]
fn killed_hubs_and_agents_come_back_and_no_incident_is_lost_or_doubled() {
    need_kernel!();
    let lab =
        Lab::new("killed9", &FABRIC.replace("planes = 1", "planes = 2").replace("hosts = 4", "hosts = 8"));
    lab.ok(&["up", &lab.file]);
    // all or nothing: what is left over while agents come back must not look like a cure
    lab.ok(&["fault", "p0-leaf0:p0-spine1", "blackhole", "50%"]);
    let open = within(30, "an incident", || incidents(&lab).filter(|i| !i.is_empty()));
    let id = open[0]["id"].clone();
    assert_eq!(open[0]["component"]["name"], "p0-leaf0:p0-spine1");
    let the_same = |after: &str| {
        // long enough for what was not answered meanwhile to be reported and weighed
        std::thread::sleep(Duration::from_secs(6));
        let now = within(20, "the hub answers", || incidents(&lab));
        let known: Vec<_> = now.iter().map(|i| (&i["id"], &i["state"], &i["component"]["name"])).collect();
        assert_eq!(known, [(&id, &"open".into(), &"p0-leaf0:p0-spine1".into())], "after {after}: {now:#?}");
    };
    kill(&lab, &["hub"]);
    the_same("the hub was killed");
    kill(&lab, &["host1", "host6"]);
    the_same("two agents were killed");
    kill(&lab, &["hub", "host2"]);
    the_same("the hub and an agent were killed");
    lab.ok(&["heal", "--all"]);
    within(60, "the incident is closed", || incidents(&lab).filter(|i| i[0]["state"] == "closed"));
    assert_eq!(incidents(&lab).unwrap().len(), 1);
    lab.ok(&["down"]);
    lab.nothing_left();
}

#[test]
fn a_scenario_is_run_and_judged() {
    need_kernel!();
    let text = format!(
        "name = \"told\"\nseed = 3\n[fabric]\n{}[[fault]]\ntarget = \"p0-leaf0:p0-spine1\"\nkind = \"drop 30%\"\n\
         at = \"5s\"\nuntil = \"30s\"\n",
        FABRIC.replace("name = \"cli\"\n", "")
    );
    let lab = Lab::new("run", &text);
    let told: Value = serde_json::from_str(&lab.ok(&["run", &lab.file, "--json"])).unwrap();
    assert_eq!(told["right"], true, "{told}");
    assert_eq!(told["incidents"][0]["component"]["name"], "p0-leaf0:p0-spine1");
    lab.nothing_left();
}

#[test]
fn what_people_type_is_answered() {
    need_kernel!();
    let lab = Lab::up("typed");
    let links = lab.json(&["inspect"])["links"].clone();
    let link = &links[0];
    assert_eq!(link["netns"], format!("{}-host0", lab.name));
    assert_eq!((&link["ifname"], &link["id"]), (&"p0".into(), &0.into()));
    let out = lab.output(&["exec", "host0", "--", "ip", "-6", "-br", "addr", "show", "dev", "p0"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("fd5e::1/128"));
    assert_eq!(lab.output(&["exec", "host0", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    for (wrong, said) in [
        (&["fault", "p0-leaf7", "drop", "1%"][..], "p0-leaf7"),
        (&["fault", "p0-leaf0", "drop", "lots"], "drop RATE"),
        (&["heal", "p0-leaf0"], "nothing acts on p0-leaf0"),
        (&["exec", "host9", "--", "true"], "host9"),
    ] {
        let out = lab.output(wrong);
        assert_eq!(out.status.code(), Some(1), "{wrong:?}");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(error.contains(said), "{wrong:?}: {error}");
    }
}
