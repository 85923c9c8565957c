//! One message taken apart: priority, time, host, program, text.
//!
//! How: the priority is read here, since it is there also where nothing else has a known form; the rest is
//! `syslog_loose`'s, which knows RFC 5424, RFC 3164 and much between them.
//! Invariants: any text gives a message or `None`; without a priority a message is a notice (RFC 3164, section 4.3.3).

use chrono::{Datelike as _, Utc};
use syslog_loose::{Variant, parse_message_with_year_tz};
use wire::Nanos;

/// Severity of a message that does not say: notice.
const NOTICE: u8 = 5;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Severity, 0 to 7.
    pub severity: u8,
    /// Time, where it is told; one without a zone is taken as UTC.
    pub at: Option<Nanos>,
    /// Host, where it is told.
    pub host: Option<&'a str>,
    /// Program, where it is told.
    pub app: Option<&'a str>,
    /// What it says; where the form has a message id or a tag in front, they are part of it.
    pub text: String,
}

/// The priority and what follows it.
fn priority(text: &str) -> Option<(u8, &str)> {
    let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
    let good = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let priority: u16 = good.then(|| number.parse().ok())??;
    // 23 facilities of 8 severities (RFC 5424, section 6.2.1)
    (priority <= 191).then_some(((priority % 8) as u8, rest))
}

/// Takes a message apart; `None` where there is nothing in it.
pub fn parse(text: &str) -> Option<Message<'_>> {
    let text = text.trim_matches(['\0', '\r', '\n', ' ', '\u{feff}']);
    let (severity, rest) = priority(text).unwrap_or((NOTICE, text));
    if rest.trim().is_empty() {
        return None;
    }
    let m = parse_message_with_year_tz(text, |_| Utc::now().year(), Some(Utc), Variant::Either);
    if m.timestamp.is_none() && m.hostname.is_none() {
        // No known form: all of it is text, with whatever the device puts in front.
        return Some(Message { severity, at: None, host: None, app: None, text: rest.trim().to_owned() });
    }
    let at = m.timestamp.and_then(|t| t.timestamp_nanos_opt()).and_then(|n| u64::try_from(n).ok());
    let told = |t: Option<&'_ str>| t.is_some_and(|t| !t.is_empty() && t != "-");
    // `%LINK-3-UPDOWN` is where a program's name would be; the text is whole only with it.
    let front = m.msgid.filter(|id| told(Some(id))).or(m.appname.filter(|a| a.starts_with('%')));
    let body = m.msg.trim_matches(['\u{feff}', ' ', ':']);
    let text = match front {
        Some(front) => format!("{front}: {body}"),
        None => body.to_owned(),
    };
    Some(Message {
        severity,
        at: at.map(Nanos),
        host: m.hostname.filter(|h| told(Some(h))),
        app: m.appname.filter(|a| told(Some(a))),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_devices_use() {
        let year = Utc::now().year();
        for (text, severity, host, app, said) in [
            (
                "<165>1 2003-10-11T22:14:15.003Z sw1 mib2d 804 SNMP_TRAP_LINK_DOWN [j@2636 a=\"b\"] ifName et-0/0/1",
                5,
                Some("sw1"),
                Some("mib2d"),
                "SNMP_TRAP_LINK_DOWN: ifName et-0/0/1",
            ),
            (
                "<4>Oct 11 22:14:15 host7 kernel: eth0: Link is Down",
                4,
                Some("host7"),
                Some("kernel"),
                "eth0: Link is Down",
            ),
            (
                "<189>: 2018 Apr 22 10:27:53 CDT: %ETHPORT-5-IF_UP: Interface Ethernet1/4 is up",
                5,
                None,
                None,
                ": 2018 Apr 22 10:27:53 CDT: %ETHPORT-5-IF_UP: Interface Ethernet1/4 is up",
            ),
            ("no priority at all", 5, None, None, "no priority at all"),
            ("<999>x", 5, None, None, "<999>x"),
        ] {
            let m = parse(text).unwrap();
            assert_eq!((m.severity, m.host, m.app, &*m.text), (severity, host, app, said), "{text}");
        }
        let at = parse("<4>Oct 11 22:14:15 h k: x").unwrap().at.unwrap();
        assert_eq!(chrono::DateTime::from_timestamp_nanos(at.0 as i64).year(), year);
        assert_eq!(parse("<4>  "), None);
        assert_eq!(parse("\0\0"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_an_outcome(text in "\\PC{0,80}", n in 0u16..300) {
            let _ = parse(&text);
            let _ = parse(&format!("<{n}>{text}"));
            let _ = parse(&format!("<{n}>1 {text}"));
            let _ = parse(&format!("<{n}>Feb 31 99:{n}:00 {text}"));
        }
        #[test]
        fn any_bytes_are_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
