//! Loading BPF classifier programs and talking to their maps.
//!
//! Maps are arrays of 64-bit words, or hash tables of 32-bit words, so that no memory layout is shared between C and Rust
//! beyond the order of the words.

use crate::{Error, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use std::os::fd::{AsFd, BorrowedFd};

fn refused(what: &'static str) -> impl Fn(&dyn std::error::Error) -> Error {
    move |e| {
        // the verifier's log is in the source chain
        let mut said = e.to_string();
        let mut cause = e.source();
        while let Some(e) = cause {
            said.push_str(": ");
            said.push_str(&e.to_string());
            cause = e.source();
        }
        Error::Bpf { what, said }
    }
}

/// A loaded object. The kernel keeps its programs and maps as long as something (a filter) uses them.
#[derive(Debug)]
pub struct Object(Ebpf);

impl Object {
    /// Reads an ELF object and makes its maps.
    pub fn load(elf: &[u8]) -> Result<Object> {
        EbpfLoader::new().load(elf).map(Object).map_err(|e| refused("object")(&e))
    }

    /// Likewise, with room for so many entries in one of its maps.
    pub fn load_with_room(elf: &[u8], map: &'static str, entries: u32) -> Result<Object> {
        let loaded = EbpfLoader::new().map_max_entries(map, entries.max(1)).load(elf);
        loaded.map(Object).map_err(|e| refused("object")(&e))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier> {
        let program =
            self.0.program_mut(name).ok_or(Error::Bpf { what: "program", said: name.to_string() })?;
        let program: &mut SchedClassifier = program.try_into().map_err(|e| refused("program type")(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| refused("program load")(&e))?;
        }
        Ok(program)
    }

    /// The descriptor of a classifier program, loaded into the kernel the first time it is asked for.
    pub fn classifier(&mut self, name: &'static str) -> Result<BorrowedFd<'_>> {
        Ok(self.program(name)?.fd().map_err(|e| refused("program")(&e))?.as_fd())
    }

    /// Runs a classifier program on everything that leaves by an interface of this thread's namespace, before other such
    /// programs there (tcx, Linux 6.6), for as long as this object lives.
    pub fn attach_egress(&mut self, name: &'static str, interface: &str) -> Result<()> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        self.program(name)?
            .attach_with_options(interface, TcAttachType::Egress, order)
            .map(drop)
            .map_err(|e| refused("program at the egress hook (tcx)")(&e))
    }

    /// Puts an entry into a hash table.
    pub fn insert<const K: usize, const V: usize>(
        &mut self,
        map: &'static str,
        key: [u32; K],
        value: [u32; V],
    ) -> Result<()> {
        let data = self.0.map_mut(map).ok_or(Error::Bpf { what: "hash map", said: map.to_string() })?;
        let mut table: HashMap<&mut MapData, [u32; K], [u32; V]> =
            HashMap::try_from(data).map_err(|e| refused("hash map")(&e))?;
        table.insert(key, value, 0).map_err(|e| refused("hash map write")(&e))
    }

    /// The words of an array map with one entry.
    pub fn words<const N: usize>(&self, map: &'static str) -> Result<[u64; N]> {
        let data = self.0.map(map).ok_or(Error::Bpf { what: "array map", said: map.to_string() })?;
        let array: Array<&MapData, [u64; N]> = Array::try_from(data).map_err(|e| refused("map")(&e))?;
        array.get(&0, 0).map_err(|e| refused("map read")(&e))
    }

    /// The kernel's number of a map, by which it can be found again later.
    pub fn map_id(&self, name: &'static str) -> Result<u32> {
        match self.0.map(name) {
            Some(Map::Array(data)) => Ok(data.info().map_err(|e| refused("map")(&e))?.id()),
            _ => Err(Error::Bpf { what: "array map", said: name.to_string() }),
        }
    }
}

/// An array map with one entry of `N` words.
pub struct Words<const N: usize>(Array<MapData, [u64; N]>);

impl<const N: usize> Words<N> {
    /// The map with this number. Fails where the last filter that used it is gone.
    pub fn open(id: u32) -> Result<Words<N>> {
        let data = MapData::from_id(id).map_err(|e| refused("map")(&e))?;
        Array::try_from(Map::Array(data)).map(Words).map_err(|e| refused("map")(&e))
    }
    /// The words now.
    pub fn get(&self) -> Result<[u64; N]> {
        self.0.get(&0, 0).map_err(|e| refused("map read")(&e))
    }
    /// Overwrites the words.
    pub fn set(&mut self, words: [u64; N]) -> Result<()> {
        self.0.set(0, words, 0).map_err(|e| refused("map write")(&e))
    }
}
