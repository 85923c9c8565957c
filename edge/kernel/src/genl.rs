//! Generic netlink: families by name. Used for IOAM namespaces (RFC 9197) and ethtool.

use crate::netlink::{Batch, Message, Netlink, attributes, ne16};
use crate::{Error, Result};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const IOAM6_CMD_ADD_NAMESPACE: u8 = 1;
const IOAM6_ATTR_NS_ID: u16 = 1;

/// A generic netlink socket bound to one family.
#[derive(Debug)]
pub struct Genl {
    socket: Netlink,
    family: u16,
}

impl Genl {
    /// Opens a socket in this thread's namespace and looks the family up.
    pub fn open(name: &'static str) -> Result<Genl> {
        let mut socket = Netlink::open(libc::NETLINK_GENERIC)?;
        let mut batch = Batch::new();
        batch
            .message("family", 0, GENL_ID_CTRL, 0, &[CTRL_CMD_GETFAMILY, 1, 0, 0])
            .text(CTRL_ATTR_FAMILY_NAME, name);
        let mut family = None;
        let asked = socket.ask(batch, |kind, body| {
            if kind == GENL_ID_CTRL {
                for (attribute, value) in attributes(body.get(4..).unwrap_or(&[])) {
                    if attribute == CTRL_ATTR_FAMILY_ID {
                        family = Some(ne16(value, 0));
                    }
                }
            }
        });
        match (asked, family) {
            (Ok(()), Some(family)) => Ok(Genl { socket, family }),
            (Err(Error::Netlink { errno, .. }), _) if errno.0 != libc::ENOENT => {
                Err(Error::Call { call: "generic netlink family", errno })
            }
            _ => Err(Error::NoFamily { name }),
        }
    }

    pub(crate) fn request(
        &mut self,
        what: &'static str,
        index: u32,
        command: u8,
        write: impl FnOnce(&mut Message<'_>),
    ) -> Result<()> {
        let mut batch = Batch::new();
        write(&mut batch.message(what, index, self.family, 0, &[command, 1, 0, 0]));
        self.socket.apply(batch)
    }

    /// Asks for something and hands over each answer's attributes.
    pub(crate) fn ask(
        &mut self,
        what: &'static str,
        index: u32,
        command: u8,
        write: impl FnOnce(&mut Message<'_>),
        mut answer: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut batch = Batch::new();
        write(&mut batch.message(what, index, self.family, 0, &[command, 1, 0, 0]));
        let family = self.family;
        self.socket.ask(batch, |kind, body| {
            if kind == family {
                answer(body.get(4..).unwrap_or(&[]));
            }
        })
    }
}

/// Adds an IOAM namespace to this thread's network namespace, so that nodes fill in trace options that carry its id.
/// Adding it again is no error.
pub fn add_ioam_namespace(id: u16) -> Result<()> {
    let mut genl = Genl::open("IOAM6")?;
    let added = genl.request("IOAM namespace", id.into(), IOAM6_CMD_ADD_NAMESPACE, |m| {
        m.attr(IOAM6_ATTR_NS_ID, &id.to_ne_bytes());
    });
    match added {
        Err(Error::Netlink { errno, .. }) if errno.0 == libc::EEXIST => Ok(()),
        other => other,
    }
}
