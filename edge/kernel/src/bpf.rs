//! Loading BPF classifier programs and talking to their maps.
//!
//! Maps are arrays of 64-bit words, so that no memory layout is shared between C and Rust beyond the order of the
//! words.

use crate::{Error, Result};
use aya::maps::{Array, Map, MapData};
use aya::programs::SchedClassifier;
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

    /// The descriptor of a classifier program, loaded into the kernel the first time it is asked for.
    pub fn classifier(&mut self, name: &'static str) -> Result<BorrowedFd<'_>> {
        let program =
            self.0.program_mut(name).ok_or(Error::Bpf { what: "program", said: name.to_string() })?;
        let program: &mut SchedClassifier = program.try_into().map_err(|e| refused("program type")(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| refused("program load")(&e))?;
        }
        Ok(program.fd().map_err(|e| refused("program")(&e))?.as_fd())
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
