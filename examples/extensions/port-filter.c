/* A filter: what guests send to TCP and UDP ports of a list ends at the switch.
 *
 *   clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o port-filter.wasm port-filter.c
 *
 * Settings of the switch: {"ports":[25,135,445]}, at most 64. Settings of a port are refused.
 * Each answer stands for a flow; new settings take the old answers back. What it dropped of a port's flows is counted, shown as
 * the port's status, and moves with the guest. */
#include "turnpike.h"

enum { MOST_PORTS = 64, MOST_NICS = 1025 };

static char buffer[65536];
static uint8_t listed[65536 / 8];
static uint32_t ports[MOST_PORTS];
static uint64_t dropped[MOST_NICS];

static const char MAGIC[8] = "PFLT0001";
static struct {
    char magic[8];
    uint64_t dropped;
} saved;

uint32_t TP_EXPORT(tp_abi)(void) { return TP_ABI; }
uint32_t TP_EXPORT(tp_kind)(void) { return TP_FILTER; }
tp_text TP_EXPORT(tp_reasons)(void) { return TP_TEXT("listed-port\n"); }
uint32_t TP_EXPORT(tp_judges)(uint32_t direction) { return direction == TP_OUT; }
void *TP_EXPORT(tp_buffer)(uint32_t len) { return len <= sizeof buffer ? buffer : NULL; }

uint32_t TP_EXPORT(tp_judge)(const struct tp_frame *frame) {
    uint32_t protocol, port;
    const uint8_t *header = tp_ports(frame, &protocol);
    if (!header)
        return TP_PASS(TP_FLOW);
    port = tp_be16(header + 2);
    if (!(listed[port / 8] >> (port % 8) & 1))
        return TP_PASS(TP_FLOW);
    if (!frame->dry && frame->port < MOST_NICS)
        dropped[frame->port]++;
    return TP_DROP(TP_FLOW, 0);
}

tp_text TP_EXPORT(tp_set)(uint32_t port, const char *settings, uint32_t len) {
    int count = len ? tp_numbers(settings, len, "ports", ports, MOST_PORTS, 65535) : 0;
    if (port)
        return TP_TEXT("the list is the switch's; a port has no settings");
    if (count < 0)
        return TP_TEXT("'ports' has to be a list of at most 64 numbers, each 0 to 65535");
    __builtin_memset(listed, 0, sizeof listed);
    for (int n = 0; n < count; n++)
        listed[ports[n] / 8] |= (uint8_t)(1 << ports[n] % 8);
    tp_refresh();
    return 0;
}

tp_text TP_EXPORT(tp_change)(uint64_t now, const struct tp_change *change) {
    (void)now;
    if (change->what == TP_PORT_CREATE && change->port < MOST_NICS)
        dropped[change->port] = 0;
    return 0;
}

tp_text TP_EXPORT(tp_status)(uint32_t port) {
    struct tp_writer text = {buffer, buffer + sizeof buffer};
    uint64_t sum = 0;
    if (port >= MOST_NICS)
        return 0;
    for (uint32_t n = 0; n < MOST_NICS; n++)
        sum += dropped[n];
    tp_put(&text, "{\"dropped-flows\":");
    tp_put_number(&text, port ? dropped[port] : sum);
    tp_put(&text, "}");
    return tp_bytes(buffer, (uint32_t)(text.at - buffer));
}

tp_text TP_EXPORT(tp_save)(uint64_t now, uint32_t port) {
    (void)now;
    if (port >= MOST_NICS)
        return 0;
    __builtin_memcpy(saved.magic, MAGIC, sizeof MAGIC);
    saved.dropped = dropped[port];
    return tp_bytes(&saved, sizeof saved);
}

tp_text TP_EXPORT(tp_restore)(uint64_t now, uint32_t port, const void *state, uint32_t len) {
    (void)now;
    if (len != sizeof saved || port >= MOST_NICS)
        return TP_TEXT("this is no state of port-filter");
    __builtin_memcpy(&saved, state, sizeof saved);
    for (uint32_t n = 0; n < sizeof MAGIC; n++)
        if (saved.magic[n] != MAGIC[n])
            return TP_TEXT("this is no state of port-filter");
    dropped[port] = saved.dropped;
    return 0;
}
