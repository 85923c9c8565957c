//! Generates the hub's service, and the client its tests speak to it with; the messages are `wire`'s.
fn main() {
    let proto = "../../pure/wire/proto";
    let set = protox::compile([format!("{proto}/selvedge.proto")], [proto]).expect("selvedge.proto compiles");
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".selvedge.v1", "::wire::proto")
        .compile_fds(set)
        .expect("the server is generated");
    // The pages and the documentation are embedded: new ones are a new binary.
    println!("cargo:rerun-if-changed=../../ui/dist");
    println!("cargo:rerun-if-changed=../../docs");
    println!("cargo:rerun-if-changed={proto}/selvedge.proto");
}
