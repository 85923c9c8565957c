//! Generates the gNMI client, and the server its tests speak to, from the one place the messages are written down.
fn main() {
    let set = protox::compile(["proto/gnmi.proto"], ["proto"]).expect("proto/gnmi.proto compiles");
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(set)
        .expect("client and server are generated");
    println!("cargo:rerun-if-changed=proto/gnmi.proto");
}
