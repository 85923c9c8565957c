//! Values of a notification, leaf by leaf: typed ones as they are, JSON taken apart.
//!
//! Invariants: any value is an outcome; JSON is at most [`DEPTH_MAX`] deep and [`LEAVES_MAX`] leaves wide, what is beyond
//! is counted; names lose the module in front of them (`openconfig-interfaces:state`, RFC 7951 section 4).

use super::proto::{PathElem, TypedValue, typed_value::Value};
use crate::rows::{bounded, limit};
use serde_json::Value as Json;

/// Depth of JSON below a path.
pub const DEPTH_MAX: usize = 16;
/// Leaves of one update.
pub const LEAVES_MAX: usize = 20_000;

/// Keys of one list entry.
const KEYS_MAX: usize = 8;

/// A leaf's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A number; booleans are 1 and 0.
    Number(f64),
    /// A text; may be a number written as one.
    Text(String),
}

/// A step of a path: a name, and the keys of the list entry it stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Its name, without a module.
    pub name: String,
    /// Keys and their values.
    pub keys: Vec<(String, String)>,
}

impl Step {
    /// The value of a key.
    pub fn key(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| &**v)
    }
}

/// A name without the module in front of it.
fn plain(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, name)| name)
}

/// A path's elements as steps.
pub fn steps(elems: &[PathElem]) -> Vec<Step> {
    let step = |e: &PathElem| Step {
        name: bounded(plain(&e.name), limit::NAME),
        keys: e
            .key
            .iter()
            .take(KEYS_MAX)
            .map(|(k, v)| (plain(k).to_owned(), bounded(v, limit::NAME)))
            .collect(),
    };
    elems.iter().take(DEPTH_MAX * 2).map(step).collect()
}

/// Takes a value apart below a path; `each` gets every leaf with its whole path. How many could not be taken.
pub fn leaves(path: &mut Vec<Step>, value: &TypedValue, each: &mut impl FnMut(&[Step], Leaf)) -> u64 {
    let number = match &value.value {
        Some(Value::IntVal(n)) => *n as f64,
        Some(Value::UintVal(n)) => *n as f64,
        Some(Value::DoubleVal(n)) => *n,
        Some(Value::FloatVal(n)) => f64::from(*n),
        Some(Value::BoolVal(b)) => f64::from(u8::from(*b)),
        Some(Value::DecimalVal(d)) => d.digits as f64 / 10f64.powi(d.precision.min(18) as i32),
        // openconfig's ieeefloat32
        Some(Value::BytesVal(b)) => match <[u8; 4]>::try_from(&**b) {
            Ok(b) => f64::from(f32::from_be_bytes(b)),
            Err(_) => return 1,
        },
        Some(Value::StringVal(s) | Value::AsciiVal(s)) => {
            each(path, Leaf::Text(s.clone()));
            return 0;
        }
        Some(Value::JsonVal(bytes) | Value::JsonIetfVal(bytes)) => {
            // serde_json refuses more than 128 levels by itself.
            return match serde_json::from_slice::<Json>(bytes) {
                Ok(json) => {
                    let mut room = LEAVES_MAX;
                    let deepest = path.len() + DEPTH_MAX;
                    below(path, &json, deepest, &mut room, each)
                }
                Err(_) => 1,
            };
        }
        Some(Value::LeaflistVal(_)) | None => return 1,
    };
    each(path, Leaf::Number(number));
    0
}

/// Keys of list entries, those of the lists this room knows first.
const KEYS: &[&str] = &["name", "interface-id", "index", "id"];

fn below(
    path: &mut Vec<Step>,
    json: &Json,
    deepest: usize,
    room: &mut usize,
    each: &mut impl FnMut(&[Step], Leaf),
) -> u64 {
    let leaf = match json {
        Json::Object(fields) => {
            if path.len() >= deepest {
                return 1;
            }
            let mut lost = 0;
            for (name, field) in fields {
                if let Json::Array(entries) = field {
                    lost += list(path, name, entries, deepest, room, each);
                    continue;
                }
                path.push(Step { name: bounded(plain(name), limit::NAME), keys: Vec::new() });
                lost += below(path, field, deepest, room, each);
                path.pop();
            }
            return lost;
        }
        Json::Number(n) => Leaf::Number(n.as_f64().unwrap_or(f64::NAN)),
        Json::Bool(b) => Leaf::Number(f64::from(u8::from(*b))),
        Json::String(s) => Leaf::Text(s.clone()),
        Json::Array(_) | Json::Null => return 1,
    };
    if *room == 0 {
        return 1;
    }
    *room -= 1;
    each(path, leaf);
    0
}

/// The entries of a list, each with its key.
fn list(
    path: &mut Vec<Step>,
    name: &str,
    entries: &[Json],
    deepest: usize,
    room: &mut usize,
    each: &mut impl FnMut(&[Step], Leaf),
) -> u64 {
    let mut lost = 0;
    for entry in entries {
        let Json::Object(fields) = entry else {
            lost += 1;
            continue;
        };
        let key = KEYS.iter().find_map(|k| {
            let (_, value) = fields.iter().find(|(name, _)| plain(name) == *k)?;
            let value = match value {
                Json::String(s) => bounded(s, limit::NAME),
                Json::Number(n) => n.to_string(),
                _ => return None,
            };
            Some(((*k).to_owned(), value))
        });
        path.push(Step { name: bounded(plain(name), limit::NAME), keys: key.into_iter().collect() });
        lost += below(path, entry, deepest, room, each);
        path.pop();
    }
    lost
}
