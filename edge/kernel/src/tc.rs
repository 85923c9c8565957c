//! Traffic control: BPF programs at the classifier hook, and token buckets.
//!
//! Programs go to the `clsact` hook and not to a tcx link: a filter lives as long as its interface, while a link
//! ends with the process that made it unless it is pinned to a file that somebody must clean up.

use crate::netlink::{Batch, CREATE, Netlink, REPLACE};
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
const INGRESS: u32 = 0xffff_fff2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Priority of our filter among those at the hook. Others may add theirs beside it.
const PRIORITY: u32 = 0x5e1;
/// Handle of our token bucket.
const BUCKET_HANDLE: u32 = 0x05e1_0000;
const ETH_P_ALL: u16 = 0x0003;

fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    header
}

fn filter_info() -> u32 {
    PRIORITY << 16 | u32::from(ETH_P_ALL.to_be())
}

/// Gives an interface the hook that programs attach to. The kernel stops the interface for a moment to do so and drops
/// what it would have sent meanwhile: best done before it is up. Refused where the hook is there already.
pub fn add_hook(batch: &mut Batch, index: u32) {
    batch
        .message("clsact on link", index, RTM_NEWQDISC, CREATE, &tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0))
        .text(TCA_KIND, "clsact");
}

/// Runs a classifier program on everything that comes in on an interface of the socket's namespace, in place of the
/// one this function put there before.
pub fn attach_ingress(socket: &mut Netlink, index: u32, program: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut batch = Batch::new();
    add_hook(&mut batch, index);
    match socket.apply(batch) {
        Err(Error::Netlink { errno, .. }) if errno.0 == libc::EEXIST => {}
        other => other?,
    }
    let mut batch = Batch::new();
    batch
        .message("filter on link", index, RTM_NEWTFILTER, REPLACE, &tcmsg(index, 1, INGRESS, filter_info()))
        .text(TCA_KIND, "bpf")
        .nest(TCA_OPTIONS, |m| {
            m.attr(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
                .text(TCA_BPF_NAME, name)
                .attr(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
        });
    socket.apply(batch)
}

/// Takes our program off again. None there: nothing to do.
pub fn detach_ingress(socket: &mut Netlink, index: u32) -> Result<()> {
    let mut batch = Batch::new();
    batch
        .message("filter on link", index, RTM_DELTFILTER, 0, &tcmsg(index, 1, INGRESS, filter_info()))
        .text(TCA_KIND, "bpf");
    absent_is_fine(socket.apply(batch))
}

/// Lets at most `rate_bps` bits a second out of an interface; bursts of up to `burst_bytes` pass at once, and
/// `queue_bytes` may wait. What does not fit is dropped.
pub fn set_rate(
    socket: &mut Netlink,
    index: u32,
    rate_bps: u64,
    burst_bytes: u32,
    queue_bytes: u32,
) -> Result<()> {
    let bytes_per_s = (rate_bps / 8).max(1);
    // struct tc_tbf_qopt: the rate, no peak rate, then limit, buffer and mtu; the buffer is given in bytes apart
    let mut options = [0; 36];
    options[1] = TC_LINKLAYER_ETHERNET;
    options[8..12].copy_from_slice(&u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
    options[24..28].copy_from_slice(&queue_bytes.to_ne_bytes());
    let mut batch = Batch::new();
    batch
        .message("rate of link", index, RTM_NEWQDISC, REPLACE, &tcmsg(index, BUCKET_HANDLE, TC_H_ROOT, 0))
        .text(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS, |m| {
            m.attr(TCA_TBF_PARMS, &options)
                .attr(TCA_TBF_BURST, &burst_bytes.to_ne_bytes())
                .attr(TCA_TBF_RATE64, &bytes_per_s.to_ne_bytes());
        });
    socket.apply(batch)
}

/// Takes the rate away again. None set: nothing to do.
pub fn clear_rate(socket: &mut Netlink, index: u32) -> Result<()> {
    let mut batch = Batch::new();
    batch.message("rate of link", index, RTM_DELQDISC, 0, &tcmsg(index, BUCKET_HANDLE, TC_H_ROOT, 0));
    absent_is_fine(socket.apply(batch))
}

fn absent_is_fine(done: Result<()>) -> Result<()> {
    match done {
        Err(Error::Netlink { errno, .. })
            if [libc::ENOENT, libc::EINVAL, libc::ENODEV].contains(&errno.0) =>
        {
            Ok(())
        }
        other => other,
    }
}
