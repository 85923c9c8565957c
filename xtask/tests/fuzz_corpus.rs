//! The corpora of the fuzz targets as plain tests: what fuzzing once found never comes back unseen.
#![allow(clippy::expect_used)]

#[path = "../../fuzz/src/entries.rs"]
mod entries;

#[test]
fn every_corpus_runs() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, entry) in entries::ENTRIES {
        let files = std::fs::read_dir(dir.join(name)).expect("every target has a corpus in fuzz/corpus");
        let mut ran = 0;
        for file in files.flatten() {
            entry(&std::fs::read(file.path()).expect("a corpus file is readable"));
            ran += 1;
        }
        assert!(ran > 0, "the corpus of {name} is empty");
    }
}
