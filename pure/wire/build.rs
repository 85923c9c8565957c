//! Generates the agent-hub messages from the one place they are written down. No `protoc` needed.
fn main() {
    let set = protox::compile(["proto/selvedge.proto"], ["proto"]).expect("proto/selvedge.proto compiles");
    prost_build::Config::new().btree_map(["."]).compile_fds(set).expect("messages are generated");
    println!("cargo:rerun-if-changed=proto/selvedge.proto");
}
