//! Loading BPF classifier programs and talking to their maps.
//!
//! Maps are arrays of 64-bit words, or hash tables of 32-bit words, so that no memory layout is shared between C and Rust
//! beyond the order of the words.

use crate::{Error, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, Iter, SchedClassifier};
use aya::{Btf, Ebpf, EbpfLoader};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

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

/// The types of the running kernel (BTF), by which programs find fields of its structures. Some 20 MB while it lives: load
/// what is to be loaded, and drop it.
#[derive(Debug)]
pub struct KernelTypes(Btf);

impl KernelTypes {
    /// Reads `/sys/kernel/btf/vmlinux`.
    pub fn read() -> Result<KernelTypes> {
        Btf::from_sys_fs().map(KernelTypes).map_err(|e| refused("the kernel's types (BTF)")(&e))
    }
}

/// Has the kernel measure how long every BPF program runs, until this is dropped. It costs each run some 20 ns.
pub fn measure_programs() -> Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|e| refused("measuring programs")(&e))
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

    /// Runs a classifier program on everything that arrives at, or leaves by, an interface of this thread's namespace, after other
    /// such programs there (tcx, Linux 6.6), until what is returned is dropped.
    pub fn attach_tcx(&mut self, name: &'static str, interface: &str, arriving: bool) -> Result<Attachment> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let at = if arriving { TcAttachType::Ingress } else { TcAttachType::Egress };
        let program = self.program(name)?;
        let link = program.attach_with_options(interface, at, order);
        let link = link.and_then(|id| program.take_link(id));
        link.map(|link| Attachment { _link: link }).map_err(|e| refused("program at a hook (tcx)")(&e))
    }

    /// Reads an ELF object whose programs read the kernel's own structures, found by these types, and makes its maps.
    pub fn load_traced(elf: &[u8], types: &KernelTypes) -> Result<Object> {
        EbpfLoader::new().btf(Some(&types.0)).load(elf).map(Object).map_err(|e| refused("object")(&e))
    }

    /// Loads a program and runs it at a tracepoint of the kernel, for as long as this object lives.
    pub fn trace(&mut self, program: &'static str, tracepoint: &str, types: &KernelTypes) -> Result<()> {
        let found = self.tracing(program)?;
        found.load(tracepoint, &types.0).map_err(|e| refused("tracing program")(&e))?;
        found.attach().map(drop).map_err(|e| refused("tracepoint")(&e))
    }

    /// Loads a program that is to run at a tracepoint of the kernel, without running it there yet.
    pub fn load_trace(&mut self, program: &'static str, tracepoint: &str, types: &KernelTypes) -> Result<()> {
        self.tracing(program)?.load(tracepoint, &types.0).map_err(|e| refused("tracing program")(&e))
    }

    /// Runs a program that was loaded so at its tracepoint, until what is returned is dropped.
    pub fn run_trace(&mut self, program: &'static str) -> Result<Traced> {
        let found = self.tracing(program)?;
        let link = found.attach().and_then(|id| found.take_link(id));
        link.map(|link| Traced { _link: link }).map_err(|e| refused("tracepoint")(&e))
    }

    fn tracing(&mut self, program: &'static str) -> Result<&mut BtfTracePoint> {
        let found = self.0.program_mut(program);
        let found = found.ok_or(Error::Bpf { what: "tracing program", said: program.to_owned() })?;
        found.try_into().map_err(|e| refused("tracing program")(&e))
    }

    /// Loads a program that [`Object::iterate`] runs over things of one kind, such as `tcp`.
    pub fn load_iterator(&mut self, program: &'static str, kind: &str, types: &KernelTypes) -> Result<()> {
        let found = self.iterator(program)?;
        found.load(kind, &types.0).map_err(|e| refused("iterator")(&e))
    }

    fn iterator(&mut self, program: &'static str) -> Result<&mut Iter> {
        let found = self.0.program_mut(program);
        let found = found.ok_or(Error::Bpf { what: "iterator", said: program.to_owned() })?;
        found.try_into().map_err(|e| refused("iterator")(&e))
    }

    /// A file whose reading runs the iterator once over everything there is, in the network namespace of this thread.
    pub fn iterate(&mut self, program: &'static str) -> Result<File> {
        let found = self.iterator(program)?;
        let link = found.attach().map_err(|e| refused("iterator")(&e))?;
        let link = found.take_link(link).map_err(|e| refused("iterator")(&e))?;
        link.into_file().map_err(|e| refused("iterator")(&e))
    }

    /// Time all its programs took together, and how often they ran, while somebody held [`measure_programs`].
    pub fn cost(&self) -> (Duration, u64) {
        let infos = self.0.programs().filter_map(|(_, p)| p.info().ok());
        infos.fold((Duration::ZERO, 0), |(t, n), i| (t + i.run_time(), n + i.run_count()))
    }

    /// The same, program by program.
    pub fn costs(&self) -> Vec<(String, Duration, u64)> {
        let info = |(name, p): (&str, &aya::programs::Program)| {
            p.info().ok().map(|i| (name.to_owned(), i.run_time(), i.run_count()))
        };
        self.0.programs().filter_map(info).collect()
    }

    fn map(&self, name: &'static str) -> Result<&Map> {
        self.0.map(name).ok_or(Error::Bpf { what: "map", said: name.to_owned() })
    }

    /// A hash table with a value for each processor, the words of all of them added up.
    pub fn summed<const K: usize, const V: usize>(
        &self,
        name: &'static str,
    ) -> Result<Vec<([u64; K], [u64; V])>> {
        let map: PerCpuHashMap<&MapData, [u64; K], [u64; V]> =
            self.map(name)?.try_into().map_err(|e| refused("map per processor")(&e))?;
        let mut out = Vec::new();
        for entry in map.iter() {
            // An entry that was removed meanwhile is no failure of the others.
            let Ok((key, values)) = entry else { continue };
            let mut sum = [0u64; V];
            for value in values.iter() {
                sum.iter_mut().zip(value).for_each(|(s, v)| *s = s.wrapping_add(*v));
            }
            out.push((key, sum));
        }
        Ok(out)
    }

    /// Removes an entry of such a table.
    pub fn remove_summed<const K: usize, const V: usize>(
        &mut self,
        name: &'static str,
        key: &[u64; K],
    ) -> Result<()> {
        let map = self.0.map_mut(name).ok_or(Error::Bpf { what: "map", said: name.to_owned() })?;
        let mut map: PerCpuHashMap<&mut MapData, [u64; K], [u64; V]> =
            map.try_into().map_err(|e| refused("map per processor")(&e))?;
        map.remove(key).map_err(|e| refused("map removal")(&e))
    }

    /// Removes an entry of a hash table. One that is gone already is no failure.
    pub fn remove<const K: usize, const V: usize>(&mut self, name: &'static str, key: &[u64; K]) {
        let map = self.0.map_mut(name).map(HashMap::<&mut MapData, [u64; K], [u64; V]>::try_from);
        if let Some(Ok(mut map)) = map {
            let _ = map.remove(key);
        }
    }

    /// Everything in a hash table.
    pub fn entries<const K: usize, const V: usize>(
        &self,
        name: &'static str,
    ) -> Result<Vec<([u64; K], [u64; V])>> {
        let map: HashMap<&MapData, [u64; K], [u64; V]> =
            self.map(name)?.try_into().map_err(|e| refused("hash map")(&e))?;
        Ok(map.iter().filter_map(std::result::Result::ok).collect())
    }

    /// Takes everything out of a hash table. What is added meanwhile stays, or is lost with its entry: for samples.
    pub fn drain<const K: usize, const V: usize>(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<([u64; K], [u64; V])>> {
        let all = self.entries(name)?;
        let map = self.0.map_mut(name).ok_or(Error::Bpf { what: "map", said: name.to_owned() })?;
        let mut map: HashMap<&mut MapData, [u64; K], [u64; V]> =
            map.try_into().map_err(|e| refused("hash map")(&e))?;
        for (key, _) in &all {
            // Gone by itself, as entries of a table with a limited memory go.
            let _ = map.remove(key);
        }
        Ok(all)
    }

    /// The only word of an array with a value for each processor, added up.
    pub fn total(&self, name: &'static str) -> Result<u64> {
        let map: PerCpuArray<&MapData, u64> =
            self.map(name)?.try_into().map_err(|e| refused("array per processor")(&e))?;
        let values = map.get(&0, 0).map_err(|e| refused("map read")(&e))?;
        Ok(values.iter().fold(0, |sum, v| sum.wrapping_add(*v)))
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

    /// Overwrites the words of an array map with one entry.
    pub fn set_words<const N: usize>(&mut self, map: &'static str, words: [u64; N]) -> Result<()> {
        let data = self.0.map_mut(map).ok_or(Error::Bpf { what: "array map", said: map.to_string() })?;
        let mut array: Array<&mut MapData, [u64; N]> =
            Array::try_from(data).map_err(|e| refused("map")(&e))?;
        array.set(0, words, 0).map_err(|e| refused("map write")(&e))
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

/// A program at a tracepoint, until this is dropped.
pub struct Traced {
    _link: BtfTracePointLink,
}

/// A program at an interface's hook, until this is dropped.
pub struct Attachment {
    _link: SchedClassifierLink,
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
