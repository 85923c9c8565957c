//! Rendered configuration, as text one can read.
// A test may unwrap: a panic is the report.
#![allow(missing_docs, clippy::unwrap_used)]

use selvedge_fabric::Fabric;

fn device(text: &str, name: &str) -> String {
    let f = Fabric::parse(text).unwrap();
    let d = f.device_by_name(name).unwrap();
    format!("{}\n{}", f.render_sysctls(d), f.render_batch(d))
}

const SRV6: &str = "name='small'\nplanes=2\nleaves=2\nspines=2\nhosts=3\n";

#[test]
fn a_host() {
    insta::assert_snapshot!(device(SRV6, "host2"), @r#"
# host2 of fabric small, epoch 17003536268253746512
-net/ipv6/ioam6_id = 8388610
net/ipv6/conf/all/accept_ra = 0
net/ipv6/conf/all/accept_dad = 0
-net/ipv6/conf/all/ioam6_enabled = 1
net/ipv6/conf/all/seg6_enabled = 1
net/ipv6/conf/default/accept_ra = 0
net/ipv6/conf/default/accept_dad = 0
-net/ipv6/conf/default/ioam6_enabled = 1
net/ipv6/conf/default/seg6_enabled = 1
net/ipv6/conf/p0/accept_ra = 0
net/ipv6/conf/p0/accept_dad = 0
-net/ipv6/conf/p0/ioam6_enabled = 1
-net/ipv6/conf/p0/ioam6_id = 1
net/ipv6/conf/p0/seg6_enabled = 1
net/ipv6/conf/p1/accept_ra = 0
net/ipv6/conf/p1/accept_dad = 0
-net/ipv6/conf/p1/ioam6_enabled = 1
-net/ipv6/conf/p1/ioam6_id = 2
net/ipv6/conf/p1/seg6_enabled = 1

# host2 of fabric small, epoch 17003536268253746512
link set dev lo up

# host2:p0-leaf1
link set dev p0 address 02:5e:00:00:00:04
link set dev p0 addrgenmode none
link set dev p0 up
address replace fe80::5e:ff:fe00:4/64 dev p0 nodad

# host2:p1-leaf1
link set dev p1 address 02:5e:00:00:00:12
link set dev p1 addrgenmode none
link set dev p1 up
address replace fe80::5e:ff:fe00:12/64 dev p1 nodad

address replace fd5e:0:1::1/128 dev p0 nodad
address replace fd5e:1:1::1/128 dev p1 nodad

route replace fd5e::/32 via fe80::5e:ff:fe00:5 dev p0 src fd5e:0:1::1
route replace fcbb:bb00::/32 via fe80::5e:ff:fe00:5 dev p0 src fd5e:0:1::1
route replace fcbb:bb00:e000::/128 encap seg6local action End.DT6 table 255 dev p0
route replace fd5e:1::/32 via fe80::5e:ff:fe00:13 dev p1 src fd5e:1:1::1
route replace fcbb:bb01::/32 via fe80::5e:ff:fe00:13 dev p1 src fd5e:1:1::1
route replace fcbb:bb01:e000::/128 encap seg6local action End.DT6 table 255 dev p1
ioam namespace add 123
"#);
}

#[test]
fn a_leaf_with_two_cables_to_a_spine() {
    let text = format!("{SRV6}[[add]]\nlink='p0-leaf0:p0-spine1'\n");
    insta::assert_snapshot!(device(&text, "p0-leaf0"), @r#"
# p0-leaf0 of fabric small, epoch 15414167896962066042
net/ipv6/conf/all/forwarding = 1
# equal routes are chosen by addresses and flow label
net/ipv6/fib_multipath_hash_policy = 0
# each switch by its own seed, so that parallel cables up and down are chosen apart
-net/ipv4/fib_multipath_hash_seed = 1
# a trace asks every hop and wants an answer from each
net/ipv6/icmp/ratelimit = 0
-net/ipv6/ioam6_id = 1
net/ipv6/conf/all/accept_ra = 0
net/ipv6/conf/all/accept_dad = 0
-net/ipv6/conf/all/ioam6_enabled = 1
net/ipv6/conf/all/seg6_enabled = 1
net/ipv6/conf/default/accept_ra = 0
net/ipv6/conf/default/accept_dad = 0
-net/ipv6/conf/default/ioam6_enabled = 1
net/ipv6/conf/default/seg6_enabled = 1
net/ipv6/conf/host0/accept_ra = 0
net/ipv6/conf/host0/accept_dad = 0
-net/ipv6/conf/host0/ioam6_enabled = 1
-net/ipv6/conf/host0/ioam6_id = 1
net/ipv6/conf/host0/seg6_enabled = 1
net/ipv6/conf/host1/accept_ra = 0
net/ipv6/conf/host1/accept_dad = 0
-net/ipv6/conf/host1/ioam6_enabled = 1
-net/ipv6/conf/host1/ioam6_id = 2
net/ipv6/conf/host1/seg6_enabled = 1
net/ipv6/conf/spine0/accept_ra = 0
net/ipv6/conf/spine0/accept_dad = 0
-net/ipv6/conf/spine0/ioam6_enabled = 1
-net/ipv6/conf/spine0/ioam6_id = 3
net/ipv6/conf/spine0/seg6_enabled = 1
net/ipv6/conf/spine1/accept_ra = 0
net/ipv6/conf/spine1/accept_dad = 0
-net/ipv6/conf/spine1/ioam6_enabled = 1
-net/ipv6/conf/spine1/ioam6_id = 4
net/ipv6/conf/spine1/seg6_enabled = 1
net/ipv6/conf/spine1.1/accept_ra = 0
net/ipv6/conf/spine1.1/accept_dad = 0
-net/ipv6/conf/spine1.1/ioam6_enabled = 1
-net/ipv6/conf/spine1.1/ioam6_id = 5
net/ipv6/conf/spine1.1/seg6_enabled = 1

# p0-leaf0 of fabric small, epoch 15414167896962066042
link set dev lo up

# p0-leaf0:host0
link set dev host0 address 02:5e:00:00:00:01
link set dev host0 addrgenmode none
link set dev host0 up
address replace fe80::5e:ff:fe00:1/64 dev host0 nodad

# p0-leaf0:host1
link set dev host1 address 02:5e:00:00:00:03
link set dev host1 addrgenmode none
link set dev host1 up
address replace fe80::5e:ff:fe00:3/64 dev host1 nodad

# p0-leaf0:p0-spine0
link set dev spine0 address 02:5e:00:00:00:06
link set dev spine0 addrgenmode none
link set dev spine0 up
address replace fe80::5e:ff:fe00:6/64 dev spine0 nodad

# p0-leaf0:p0-spine1
link set dev spine1 address 02:5e:00:00:00:0a
link set dev spine1 addrgenmode none
link set dev spine1 up
address replace fe80::5e:ff:fe00:a/64 dev spine1 nodad

# p0-leaf0:p0-spine1#1
link set dev spine1.1 address 02:5e:00:00:00:0c
link set dev spine1.1 addrgenmode none
link set dev spine1.1 up
address replace fe80::5e:ff:fe00:c/64 dev spine1.1 nodad

address replace fd5e:0:ffff::1/128 dev lo nodad

route replace fcbb:bb00:1::/48 encap seg6local action End flavors next-csid lblen 32 nflen 16 dev host0
route replace fcbb:bb00:2::/48 encap seg6local action End flavors next-csid lblen 32 nflen 16 dev host0
route replace fcbb:bb00:5::/48 via fe80::5e:ff:fe00:7 dev spine0
route replace fcbb:bb00:7::/48 via fe80::5e:ff:fe00:b dev spine1
route replace fcbb:bb00:8::/48 via fe80::5e:ff:fe00:d dev spine1.1
route replace fcbb:bb00:e000::/48 via fe80::5e:ff:fe00:0 dev host0
route replace fcbb:bb00:e001::/48 via fe80::5e:ff:fe00:2 dev host1
route replace fd5e::/64 via fe80::5e:ff:fe00:0 dev host0
route replace fd5e:0:0:1::/64 via fe80::5e:ff:fe00:2 dev host1
route replace fd5e:0:ffff:2::1/128 via fe80::5e:ff:fe00:7 dev spine0
route replace fd5e:0:ffff:3::1/128 nexthop via fe80::5e:ff:fe00:b dev spine1 nexthop via fe80::5e:ff:fe00:d dev spine1.1
route replace unreachable fd5e::/48
route replace fd5e::/32 nexthop via fe80::5e:ff:fe00:7 dev spine0 nexthop via fe80::5e:ff:fe00:b dev spine1 nexthop via fe80::5e:ff:fe00:d dev spine1.1
ioam namespace add 123
"#);
}

#[test]
fn a_spine_under_equal_cost_multipath() {
    insta::assert_snapshot!(device(&format!("{SRV6}mode='ecmp'\n"), "p1-spine0"), @r#"
# p1-spine0 of fabric small, epoch 9675857140535468264
net/ipv6/conf/all/forwarding = 1
# equal routes are chosen by addresses and flow label
net/ipv6/fib_multipath_hash_policy = 0
# each switch by its own seed, so that parallel cables up and down are chosen apart
-net/ipv4/fib_multipath_hash_seed = 7
# a trace asks every hop and wants an answer from each
net/ipv6/icmp/ratelimit = 0
-net/ipv6/ioam6_id = 7
net/ipv6/conf/all/accept_ra = 0
net/ipv6/conf/all/accept_dad = 0
-net/ipv6/conf/all/ioam6_enabled = 1
net/ipv6/conf/default/accept_ra = 0
net/ipv6/conf/default/accept_dad = 0
-net/ipv6/conf/default/ioam6_enabled = 1
net/ipv6/conf/leaf0/accept_ra = 0
net/ipv6/conf/leaf0/accept_dad = 0
-net/ipv6/conf/leaf0/ioam6_enabled = 1
-net/ipv6/conf/leaf0/ioam6_id = 1
net/ipv6/conf/leaf1/accept_ra = 0
net/ipv6/conf/leaf1/accept_dad = 0
-net/ipv6/conf/leaf1/ioam6_enabled = 1
-net/ipv6/conf/leaf1/ioam6_id = 2

# p1-spine0 of fabric small, epoch 9675857140535468264
link set dev lo up

# p1-spine0:p1-leaf0
link set dev leaf0 address 02:5e:00:00:00:15
link set dev leaf0 addrgenmode none
link set dev leaf0 up
address replace fe80::5e:ff:fe00:15/64 dev leaf0 nodad

# p1-spine0:p1-leaf1
link set dev leaf1 address 02:5e:00:00:00:19
link set dev leaf1 addrgenmode none
link set dev leaf1 up
address replace fe80::5e:ff:fe00:19/64 dev leaf1 nodad

address replace fd5e:1:ffff:2::1/128 dev lo nodad

route replace fd5e:1:ffff::1/128 via fe80::5e:ff:fe00:14 dev leaf0
route replace fd5e:1::/48 via fe80::5e:ff:fe00:14 dev leaf0
route replace fd5e:1:ffff:1::1/128 via fe80::5e:ff:fe00:18 dev leaf1
route replace fd5e:1:1::/48 via fe80::5e:ff:fe00:18 dev leaf1
route replace unreachable fd5e:1::/32
ioam namespace add 123
"#);
}

#[test]
fn a_leaf_that_not_every_spine_reaches() {
    let text = format!("{SRV6}mode='ecmp'\n[[remove]]\nlink='p0-leaf1:p0-spine0'\n");
    insta::assert_snapshot!(device(&text, "p0-leaf0"), @r#"
# p0-leaf0 of fabric small, epoch 12592418610241047791
net/ipv6/conf/all/forwarding = 1
# equal routes are chosen by addresses and flow label
net/ipv6/fib_multipath_hash_policy = 0
# each switch by its own seed, so that parallel cables up and down are chosen apart
-net/ipv4/fib_multipath_hash_seed = 1
# a trace asks every hop and wants an answer from each
net/ipv6/icmp/ratelimit = 0
-net/ipv6/ioam6_id = 1
net/ipv6/conf/all/accept_ra = 0
net/ipv6/conf/all/accept_dad = 0
-net/ipv6/conf/all/ioam6_enabled = 1
net/ipv6/conf/default/accept_ra = 0
net/ipv6/conf/default/accept_dad = 0
-net/ipv6/conf/default/ioam6_enabled = 1
net/ipv6/conf/host0/accept_ra = 0
net/ipv6/conf/host0/accept_dad = 0
-net/ipv6/conf/host0/ioam6_enabled = 1
-net/ipv6/conf/host0/ioam6_id = 1
net/ipv6/conf/host1/accept_ra = 0
net/ipv6/conf/host1/accept_dad = 0
-net/ipv6/conf/host1/ioam6_enabled = 1
-net/ipv6/conf/host1/ioam6_id = 2
net/ipv6/conf/spine0/accept_ra = 0
net/ipv6/conf/spine0/accept_dad = 0
-net/ipv6/conf/spine0/ioam6_enabled = 1
-net/ipv6/conf/spine0/ioam6_id = 3
net/ipv6/conf/spine1/accept_ra = 0
net/ipv6/conf/spine1/accept_dad = 0
-net/ipv6/conf/spine1/ioam6_enabled = 1
-net/ipv6/conf/spine1/ioam6_id = 4

# p0-leaf0 of fabric small, epoch 12592418610241047791
link set dev lo up

# p0-leaf0:host0
link set dev host0 address 02:5e:00:00:00:01
link set dev host0 addrgenmode none
link set dev host0 up
address replace fe80::5e:ff:fe00:1/64 dev host0 nodad

# p0-leaf0:host1
link set dev host1 address 02:5e:00:00:00:03
link set dev host1 addrgenmode none
link set dev host1 up
address replace fe80::5e:ff:fe00:3/64 dev host1 nodad

# p0-leaf0:p0-spine0
link set dev spine0 address 02:5e:00:00:00:06
link set dev spine0 addrgenmode none
link set dev spine0 up
address replace fe80::5e:ff:fe00:6/64 dev spine0 nodad

# p0-leaf0:p0-spine1
link set dev spine1 address 02:5e:00:00:00:08
link set dev spine1 addrgenmode none
link set dev spine1 up
address replace fe80::5e:ff:fe00:8/64 dev spine1 nodad

address replace fd5e:0:ffff::1/128 dev lo nodad

route replace fd5e::/64 via fe80::5e:ff:fe00:0 dev host0
route replace fd5e:0:0:1::/64 via fe80::5e:ff:fe00:2 dev host1
route replace fd5e:0:ffff:2::1/128 via fe80::5e:ff:fe00:7 dev spine0
route replace fd5e:0:ffff:3::1/128 via fe80::5e:ff:fe00:9 dev spine1
route replace fd5e:0:1::/48 via fe80::5e:ff:fe00:9 dev spine1
route replace unreachable fd5e::/48
route replace fd5e::/32 nexthop via fe80::5e:ff:fe00:7 dev spine0 nexthop via fe80::5e:ff:fe00:9 dev spine1
ioam namespace add 123
"#);
}

#[test]
fn a_host_with_rails() {
    let text = "name='rails'\nplanes=1\nleaves=2\nspines=1\nhosts=1\nrails=2\n";
    insta::assert_snapshot!(device(text, "host0"), @r#"
# host0 of fabric rails, epoch 9137300917246816440
-net/ipv6/ioam6_id = 8388608
net/ipv6/conf/all/accept_ra = 0
net/ipv6/conf/all/accept_dad = 0
-net/ipv6/conf/all/ioam6_enabled = 1
net/ipv6/conf/all/seg6_enabled = 1
net/ipv6/conf/default/accept_ra = 0
net/ipv6/conf/default/accept_dad = 0
-net/ipv6/conf/default/ioam6_enabled = 1
net/ipv6/conf/default/seg6_enabled = 1
net/ipv6/conf/p0r0/accept_ra = 0
net/ipv6/conf/p0r0/accept_dad = 0
-net/ipv6/conf/p0r0/ioam6_enabled = 1
-net/ipv6/conf/p0r0/ioam6_id = 1
net/ipv6/conf/p0r0/seg6_enabled = 1
net/ipv6/conf/p0r1/accept_ra = 0
net/ipv6/conf/p0r1/accept_dad = 0
-net/ipv6/conf/p0r1/ioam6_enabled = 1
-net/ipv6/conf/p0r1/ioam6_id = 2
net/ipv6/conf/p0r1/seg6_enabled = 1

# host0 of fabric rails, epoch 9137300917246816440
link set dev lo up

# host0:p0-leaf0
link set dev p0r0 address 02:5e:00:00:00:00
link set dev p0r0 addrgenmode none
link set dev p0r0 up
address replace fe80::5e:ff:fe00:0/64 dev p0r0 nodad

# host0:p0-leaf1
link set dev p0r1 address 02:5e:00:00:00:02
link set dev p0r1 addrgenmode none
link set dev p0r1 up
address replace fe80::5e:ff:fe00:2/64 dev p0r1 nodad

address replace fd5e::1/128 dev p0r0 nodad
address replace fd5e:0:1::1/128 dev p0r1 nodad

route replace fd5e::/32 via fe80::5e:ff:fe00:1 dev p0r0 src fd5e::1
route replace fcbb:bb00::/32 via fe80::5e:ff:fe00:1 dev p0r0 src fd5e::1
route replace fcbb:bb00:e000::/128 encap seg6local action End.DT6 table 255 dev p0r0
route replace fd5e::/32 via fe80::5e:ff:fe00:1 dev p0r0 src fd5e::1 table 1000
route replace fcbb:bb00::/32 via fe80::5e:ff:fe00:1 dev p0r0 src fd5e::1 table 1000
route replace fd5e::/32 via fe80::5e:ff:fe00:3 dev p0r1 src fd5e:0:1::1 table 1001
route replace fcbb:bb00::/32 via fe80::5e:ff:fe00:3 dev p0r1 src fd5e:0:1::1 table 1001
rule add from fd5e::1 lookup 1000 priority 1000
rule add from fd5e:0:1::1 lookup 1001 priority 1001
ioam namespace add 123
"#);
}
