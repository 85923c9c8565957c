//! Generates the client of the hub's service, and the server its tests let it talk to; the messages are `wire`'s.
fn main() {
    let proto = "../../pure/wire/proto";
    let set = protox::compile([format!("{proto}/selvedge.proto")], [proto]).expect("selvedge.proto compiles");
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".selvedge.v1", "::wire::proto")
        .compile_fds(set)
        .expect("the client is generated");
    println!("cargo:rerun-if-changed={proto}/selvedge.proto");
}
