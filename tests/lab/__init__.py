"""A small laboratory of real guests and real networks, Python standard library only.

    host     what the machine must have; processes that never outlive us
    image    the guests' kernel and initramfs, the QEMU versions
    guest    one QEMU guest: start, run a command in it, kill, reset
    traffic  iperf3 and ping between guests, numbers out
    net      bridges, TAPs, network namespaces, OVS-DPDK: the peers and the far ends
    switch   a running turnpike and its command line
    testpmd  DPDK virtio-user as a pair of very fast front ends

Everything a script starts through this package ends with the script, however the script ends.
"""
