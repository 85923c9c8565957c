//! The paths between two leaves, for traffic that may have taken any of them.
//!
//! Invariant: at most [`FANS_MAX`] pairs of leaves are remembered; beyond it all are forgotten and made again as needed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fabric::Fabric;
use wire::{LinkId, PathId};

/// Most pairs of leaves remembered.
const FANS_MAX: usize = 4_096;
/// Most paths a mixture is spread over.
pub(crate) const PATHS_MAX: usize = 1_024;

/// The links between the access links of two NICs: a pair for each path, none where both are on one leaf.
#[derive(Debug)]
pub(crate) struct Fan {
    pub(crate) trunks: Vec<[u32; 2]>,
    /// All of them, sorted.
    pub(crate) links: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Fans(BTreeMap<(u8, u32, u32), Arc<Fan>>);

impl Fans {
    /// The fan of a path's pair; `None` where there is no such pair, or it has one path anyway.
    pub(crate) fn of(&mut self, fabric: &Fabric, path: PathId) -> Option<Arc<Fan>> {
        let (from, to, _) = fabric.path_parts(path)?;
        let (a, b) = (fabric.nic_leaf_port(from).0, fabric.nic_leaf_port(to).0);
        if a == b {
            return None;
        }
        let key = (fabric.nic_parts(from).0.0, a, b);
        if let Some(fan) = self.0.get(&key) {
            return Some(Arc::clone(fan));
        }
        let trunks: Vec<[u32; 2]> = fabric
            .paths(from, to)
            .take(PATHS_MAX)
            .filter_map(|p| match fabric.path_links(p)?[..] {
                [_, LinkId(up), LinkId(down), _] => Some([up, down]),
                _ => None,
            })
            .collect();
        let mut links: Vec<u32> = trunks.iter().flatten().copied().collect();
        links.sort_unstable();
        links.dedup();
        let fan = Arc::new(Fan { trunks, links });
        if self.0.len() >= FANS_MAX {
            self.0.clear();
        }
        self.0.insert(key, Arc::clone(&fan));
        Some(fan)
    }
}
