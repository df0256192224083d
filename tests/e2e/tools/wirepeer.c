/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wirepeer: a test peer that speaks the wire protocol (userspace/common/wire.h) from either
 * end: a well- or ill-behaved agent, or a master target. Test scripts run it; nothing installs it.
 *
 *	cc -std=gnu17 -D_GNU_SOURCE -O2 -g -Iuserspace/common -Iuapi tests/e2e/tools/wirepeer.c \
 *		build/libcommon.a -lisal -lxxhash -ljansson -lsystemd -o wirepeer
 *
 * wirepeer agent --connect HOST:PORT [options]
 *	Plays the agent of one machine. Every epoch writes extents chosen and filled from the seed
 *	into an image in memory and sends them. A connection that breaks is made again, and the
 *	epoch sent again with a new attempt, until the acknowledgement that was asked for is there.
 *	--machine UUID       identity (default 00000000-0000-4000-8000-000000000001)
 *	--disk NAME:BYTES    a disk (suffix K, M, G); repeat for more. Default root:64M
 *	--epochs N           how many (default 3); 0: only HELLO
 *	--epoch-bytes B      bytes of DATA and ZERO in each (default 4M)
 *	--frame-bytes B      longest DATA frame (default 256K); lengths vary unless --fixed
 *	--fixed              every frame has the full length
 *	--zero-percent P     share of frames that are ZERO (default 10)
 *	--seed N             (default 1)
 *	--ack spooled|applied  what to wait for (default applied)
 *	--pause-ms N         between epochs
 *	--image PREFIX       keep images in PREFIX<disk>.img from run to run
 *	--committed N        what HELLO says (default: what this run has had acknowledged)
 *	--final              the last epoch is FINAL, with VERIFY frames over every disk
 *	--fuzzy, --initial   flags of every epoch
 *	--consistent         every epoch ends as consistent
 *	--tag KIND:NAME      the same, with a tag; --tag-json TEXT: with this payload
 *	--timeout S          give up after that long (default 60)
 *	--misbehave KIND     in the middle of epoch number --misbehave-at (default the first of the
 *	                     run), then report what the peer answers and exit:
 *	                     garbage, version, header-crc, bad-crc, truncated (half a frame, then
 *	                     close), vanish (close), stall (send nothing more, answer no PING),
 *	                     bad-seq, bad-digest, bad-attempt, no-begin, order (BEGIN names a
 *	                     previous epoch far ahead), behind (BEGIN names an older one),
 *	                     hello-garbage, hello-json, no-hello, tag-unclaimed (TAG, END not consistent),
 *	                     tag-twice, tag-early (DATA follows)
 *	Prints "hello-ack JSON", "ack EPOCH spooled|applied[|released]", "epoch EPOCH done", "error CODE: MESSAGE
 *	[remedy: TEXT]", "closed WHY", and at the end "image MACHINE DISK XXH3" for each disk and
 *	"rate BYTES SECONDS". Exit: 0 done (or misbehaviour played and the peer closed or complained),
 *	1 failed, 2 usage, 3 time is up, 4 refused with a fatal error.
 *
 * wirepeer mt --listen HOST:PORT --dir DIR [options]
 *	Plays the master target for any number of machines. Frames are checked and staged; END
 *	applies them to DIR/<machine>-<disk>.img, and the state is kept in DIR/<machine>.json.
 *	What is staged outlives connections (reported as "partial"), not the process.
 *	--epochs N           exit once N epochs have been applied in total (default: until SIGTERM)
 *	--discard            check, count and acknowledge, but store nothing (throughput)
 *	--ack-delay-ms N     acknowledge late
 *	--refuse CODE        answer HELLO with ERROR CODE (fatal)
 *	--refuse-epoch N     answer BEGIN of epoch N with ERROR resync-needed
 *	--vanish-every N     close the connection after about N frames, again and again
 *	--slow-kbps N        read no faster than that, all connections together
 *	--mute               take frames, never acknowledge
 *	--seed N
 *	Prints "listening HOST:PORT", "hello JSON", "applied MACHINE EPOCH", "skipped MACHINE EPOCH",
 *	"partial MACHINE EPOCH SEQ", "aborted ...", "bad ..." (a peer's fault; exit is then 1), and at the end
 *	(or on SIGUSR1) "image MACHINE DISK XXH3" and "rate BYTES SECONDS".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "util.h"
#include "wall_time.h"
#include "wire.h"

#define DISKS_MAX 8
#define PEERS_MAX 64

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

static void __attribute__((format(printf, 2, 3), noreturn)) die(int code, const char *format, ...)
{
	va_list args;

	fputs("wirepeer: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(code);
}

static uint64_t random_state;

static uint64_t next_random(void) /* splitmix64 */
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t attempt_number(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return ((uint64_t)t.tv_sec << 32 ^ (uint64_t)t.tv_nsec << 8 ^ (uint64_t)getpid() << 40) | 1u;
}

static uint64_t parse_bytes(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	switch (*end) {
	case 'K': return n << 10;
	case 'M': return n << 20;
	case 'G': return n << 30;
	case 0: return n;
	default: die(2, "%s: not a size", text);
	}
}

static void hash_text(const void *data, size_t bytes, char out[33])
{
	uint8_t hash[16];

	wire_hash(data, bytes, hash);
	for (unsigned i = 0; i < 16; i++)
		sprintf(out + 2 * i, "%02x", hash[i]);
}

static struct sockaddr_in parse_address(const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char host[64];
	const char *colon = strrchr(text, ':');

	if (!colon || (size_t)(colon - text) >= sizeof(host))
		die(2, "%s: an address is HOST:PORT", text);
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &address.sin_addr) != 1)
		die(2, "%s: not an IPv4 address", host);
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	return address;
}

/* ---- frames over a blocking socket ------------------------------------------------------- */

static int write_all(int fd, const void *data, size_t bytes)
{
	const char *p = data;

	while (bytes) {
		ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int send_frame(int fd, struct wire_frame *frame, const void *payload)
{
	uint8_t header[WIRE_HEADER_BYTES];
	struct iovec iov[2] = { { header, sizeof(header) }, { (void *)payload, frame->payload_bytes } };
	ssize_t n;

	frame->payload_crc = frame->payload_bytes ? wire_crc(payload, frame->payload_bytes) : 0;
	wire_encode(frame, header);
	n = sendmsg(fd, &(struct msghdr){ .msg_iov = iov, .msg_iovlen = frame->payload_bytes ? 2 : 1 }, MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	if ((size_t)n < sizeof(header)) {
		int r = write_all(fd, header + n, sizeof(header) - (size_t)n);

		return r ? r : write_all(fd, payload, frame->payload_bytes);
	}
	n -= (ssize_t)sizeof(header);
	return write_all(fd, (const char *)payload + n, frame->payload_bytes - (size_t)n);
}

static int send_json(int fd, unsigned type, struct wire_frame frame, json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);
	int r;

	json_decref(json);
	frame.type = (uint16_t)type;
	frame.payload_bytes = (uint32_t)strlen(text);
	r = send_frame(fd, &frame, text);
	free(text);
	return r;
}

static int read_all(int fd, void *data, size_t bytes, uint64_t until_ns)
{
	char *p = data;

	while (bytes) {
		struct pollfd poller = { .fd = fd, .events = POLLIN };
		uint64_t now = now_ns();
		ssize_t n;

		if (now >= until_ns)
			return -ETIMEDOUT;
		n = poll(&poller, 1, (int)((until_ns - now) / 1000000u) + 1);
		if (n <= 0)
			continue;
		n = read(fd, p, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* Answers PING. @payload holds WIRE_PAYLOAD_MAX + 1 bytes and is NUL-terminated. */
static int read_frame(int fd, struct wire_frame *frame, char *payload, uint64_t until_ns)
{
	uint8_t header[WIRE_HEADER_BYTES];

	for (;;) {
		int r = read_all(fd, header, sizeof(header), until_ns);

		if (!r)
			r = wire_decode(header, frame, NULL);
		if (!r && frame->payload_bytes)
			r = read_all(fd, payload, frame->payload_bytes, until_ns);
		if (r)
			return r;
		payload[frame->payload_bytes] = 0;
		if (frame->payload_bytes && wire_crc(payload, frame->payload_bytes) != frame->payload_crc)
			return -EBADMSG;
		if (frame->type != WIRE_PING)
			return 0;
		r = send_frame(fd, &(struct wire_frame){ .type = WIRE_PONG }, NULL);
		if (r)
			return r;
	}
}

/* ---- agent ------------------------------------------------------------------------------- */

struct extent {
	uint32_t disk;
	bool zero;
	uint64_t offset, length;
};

static struct agent {
	const char *connect, *machine, *image, *misbehave;
	struct {
		char name[32];
		uint64_t bytes;
		char *data;
	} disks[DISKS_MAX];
	unsigned disk_count, zero_percent, pause_ms;
	uint64_t epochs, epoch_bytes, frame_bytes, seed, misbehave_at, deadline_ns, committed;
	bool applied, final, fixed, committed_given;
	uint32_t flags;
	bool consistent;
	const char *tag, *tag_json;
	int fd;
	uint64_t last_complete, last_applied, max_epoch;
	uint64_t acked_spooled, acked_applied;
	uint64_t sent_bytes;
	bool fatal, complained;
	struct extent *extents;
	size_t extent_count, extent_room;
	char payload[WIRE_PAYLOAD_MAX + 1];
} agent = { .machine = "00000000-0000-4000-8000-000000000001", .epochs = 3, .epoch_bytes = 4 << 20,
	    .frame_bytes = 256 << 10, .zero_percent = 10, .seed = 1, .applied = true, .fd = -1,
	    .deadline_ns = 60 };

static void agent_drop(const char *why)
{
	if (agent.fd >= 0) {
		close(agent.fd);
		say("closed %s", why);
	}
	agent.fd = -1;
}

static void agent_take(const struct wire_frame *frame)
{
	if (frame->type == WIRE_ACK) {
		if (frame->flags & WIRE_ACK_PROGRESS)
			return;
		say("ack %" PRIu64 " %s%s%s%s", frame->epoch, frame->flags & WIRE_ACK_APPLIED ? "applied" : "spooled",
		    frame->flags & WIRE_ACK_RELEASED ? "|released" : "", frame->payload_bytes ? " " : "",
		    frame->payload_bytes ? agent.payload : "");
		if (frame->flags & WIRE_ACK_APPLIED && frame->epoch > agent.acked_applied)
			agent.acked_applied = frame->epoch;
		if (frame->epoch > agent.acked_spooled)
			agent.acked_spooled = frame->epoch;
	} else if (frame->type == WIRE_ERROR) {
		json_t *json = json_loads(agent.payload, 0, NULL);
		const char *remedy = json_string_value(json_object_get(json, "remedy"));

		say("error %s: %s%s%s%s", json_string_value(json_object_get(json, "code")) ?: "?",
		    json_string_value(json_object_get(json, "message")) ?: "?", remedy ? " [remedy: " : "",
		    remedy ?: "", remedy ? "]" : "");
		agent.fatal = json_is_true(json_object_get(json, "fatal"));
		agent.complained = true;
		json_decref(json);
	} else if (frame->type != WIRE_PONG) {
		say("unexpected %s", wire_type_name(frame->type));
	}
}

/* Connect and greet; 0, or why not. */
static int agent_connect(void)
{
	struct sockaddr_in address = parse_address(agent.connect);
	struct wire_frame frame;
	json_t *disks = json_array(), *json;
	int r, one = 1;

	agent.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(agent.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(agent.fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ .tv_sec = 15 }, sizeof(struct timeval));
	if (connect(agent.fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		r = -errno;
		close(agent.fd);
		agent.fd = -1;
		return r;
	}
	if (agent.misbehave && !strcmp(agent.misbehave, "no-hello"))
		return 0;
	if (agent.misbehave && !strcmp(agent.misbehave, "hello-garbage"))
		return write_all(agent.fd, "GET / HTTP/1.1\r\nHost: somewhere.else.entirely\r\nUser-Agent: none\r\n\r\n", 67);
	if (agent.misbehave && !strcmp(agent.misbehave, "hello-json")) {
		frame = (struct wire_frame){ .type = WIRE_HELLO, .payload_bytes = 9 };
		return send_frame(agent.fd, &frame, "{\"machine");
	}
	for (unsigned i = 0; i < agent.disk_count; i++)
		json_array_append_new(disks, json_pack("{s:i,s:s,s:I,s:i}", "id", (int)i + 1, "name", agent.disks[i].name,
						       "size_bytes", (json_int_t)agent.disks[i].bytes,
						       "granule_bytes", 4096));
	json = json_pack("{s:s,s:s,s:s,s:s,s:o,s:I}", "program", "wirepeer", "version", "0", "machine", agent.machine,
			 "host", "testvm", "disks", disks, "committed", (json_int_t)agent.committed);
	r = send_json(agent.fd, WIRE_HELLO, (struct wire_frame){ 0 }, json);
	while (!r) {
		r = read_frame(agent.fd, &frame, agent.payload, now_ns() + 20000000000u);
		if (r || frame.type == WIRE_HELLO_ACK)
			break;
		agent_take(&frame);
		if (agent.fatal)
			r = -ECONNABORTED;
	}
	if (r) {
		agent_drop(strerror(-r));
		return r;
	}
	say("hello-ack %s", agent.payload);
	json = json_loads(agent.payload, 0, NULL);
	agent.last_complete = (uint64_t)json_integer_value(json_object_get(json, "last_complete"));
	agent.last_applied = (uint64_t)json_integer_value(json_object_get(json, "last_applied"));
	agent.max_epoch = (uint64_t)json_integer_value(json_object_get(json, "max_epoch"));
	json_decref(json);
	return 0;
}

/* Take what has arrived, without waiting. */
static int agent_poll(void)
{
	struct pollfd poller = { .fd = agent.fd, .events = POLLIN };
	struct wire_frame frame;

	while (poll(&poller, 1, 0) > 0) {
		int r = read_frame(agent.fd, &frame, agent.payload, now_ns() + 5000000000u);

		if (r)
			return r;
		agent_take(&frame);
	}
	return 0;
}

/* Change the images: the extents of the next epoch. */
static void agent_change(void)
{
	uint64_t left = agent.epoch_bytes;

	agent.extent_count = 0;
	while (left) {
		struct extent e = { .disk = (uint32_t)(next_random() % agent.disk_count) };
		uint64_t disk_bytes = agent.disks[e.disk].bytes, *p;

		e.length = agent.fixed ? agent.frame_bytes : 4096 * (1 + next_random() % (agent.frame_bytes / 4096));
		if (e.length > left)
			e.length = left;
		if (e.length > disk_bytes)
			e.length = disk_bytes;
		e.offset = 4096 * (next_random() % ((disk_bytes - e.length) / 4096 + 1));
		e.zero = next_random() % 100 < agent.zero_percent;
		if (agent.extent_count == agent.extent_room) {
			agent.extent_room = agent.extent_room * 2 + 64;
			agent.extents = realloc(agent.extents, agent.extent_room * sizeof(e));
			if (!agent.extents)
				die(1, "out of memory");
		}
		agent.extents[agent.extent_count++] = e;
		p = (uint64_t *)(void *)(agent.disks[e.disk].data + e.offset);
		if (e.zero)
			memset(p, 0, e.length);
		else if (agent.fixed) /* throughput: cheap, yet never the same */
			for (uint64_t i = 0; i < e.length; i += 512)
				p[i / 8] = next_random();
		else
			for (uint64_t i = 0; i < e.length; i += 8)
				p[i / 8] = next_random();
		left -= e.length;
	}
}

/* Play --misbehave in mid-epoch. Return true when the epoch ends here. */
static bool agent_misbehave(struct wire_frame *frame, const void *payload)
{
	const char *kind = agent.misbehave;
	uint8_t header[WIRE_HEADER_BYTES];

	frame->payload_crc = frame->payload_bytes ? wire_crc(payload, frame->payload_bytes) : 0;
	wire_encode(frame, header);
	if (!strcmp(kind, "vanish")) {
		close(agent.fd);
		exit(0);
	} else if (!strcmp(kind, "garbage")) {
		char junk[4096];

		for (unsigned i = 0; i < sizeof(junk); i++)
			junk[i] = (char)next_random();
		write_all(agent.fd, junk, sizeof(junk));
	} else if (!strcmp(kind, "version")) {
		/* The version is whichever byte makes wire_decode say so. */
		for (unsigned i = 4; i < sizeof(header); i++) {
			struct wire_frame ignored;

			header[i] ^= 0x40;
			if (wire_decode(header, &ignored, NULL) == -EPROTONOSUPPORT)
				break;
			header[i] ^= 0x40;
		}
		write_all(agent.fd, header, sizeof(header));
	} else if (!strcmp(kind, "header-crc")) {
		header[40] ^= 1;
		write_all(agent.fd, header, sizeof(header));
	} else if (!strcmp(kind, "bad-crc")) {
		char *copy = malloc(frame->payload_bytes);

		memcpy(copy, payload, frame->payload_bytes);
		copy[frame->payload_bytes / 2] ^= 1;
		write_all(agent.fd, header, sizeof(header));
		write_all(agent.fd, copy, frame->payload_bytes);
		free(copy);
	} else if (!strcmp(kind, "truncated")) {
		write_all(agent.fd, header, sizeof(header));
		write_all(agent.fd, payload, frame->payload_bytes / 2);
		close(agent.fd);
		exit(0);
	} else if (!strcmp(kind, "bad-seq")) {
		frame->seq += 5;
		send_frame(agent.fd, frame, payload);
	} else if (!strcmp(kind, "bad-attempt")) {
		frame->attempt++;
		send_frame(agent.fd, frame, payload);
	} else if (!strcmp(kind, "stall")) {
		sleep(3600);
	} else {
		return false;
	}
	return true;
}

static int agent_tag(const struct wire_frame *base, uint32_t *seq, uint64_t *digest)
{
	const char *colon = agent.tag ? strchr(agent.tag, ':') : NULL;
	struct wire_frame frame = *base;
	char text[512], clock[WALL_TIME_BYTES];

	wall_time_rfc3339(util_wall_ms(), clock);
	snprintf(text, sizeof(text), "{\"kind\":\"%.*s\",\"name\":\"%s\",\"time\":\"%s\",\"epoch\":%" PRIu64
		 ",\"scripts\":[{\"path\":\"/x\",\"phase\":\"pre\",\"exit\":0,\"ms\":1,\"output\":\"said\"}]}",
		 colon ? (int)(colon - agent.tag) : 5, agent.tag ? agent.tag : "crash", colon ? colon + 1 : "", clock, base->epoch);
	if (agent.tag_json)
		snprintf(text, sizeof(text), "%s", agent.tag_json);
	frame.type = WIRE_TAG;
	frame.seq = ++*seq;
	frame.payload_bytes = (uint32_t)strlen(text);
	frame.payload_crc = wire_crc(text, strlen(text));
	*digest = wire_digest_add(*digest, &frame);
	return send_frame(agent.fd, &frame, text);
}

/* Send the epoch once. 0: sent, negative: the connection is gone, 1: misbehaved. */
static int agent_send(uint64_t epoch, bool final, bool misbehave)
{
	struct wire_frame base = { .epoch = epoch, .attempt = attempt_number() }, frame = base;
	uint64_t digest = 0, bytes = 0;
	uint32_t seq = 0;
	int r = 0;

	frame.type = WIRE_BEGIN;
	frame.flags = agent.flags | (final ? WIRE_EPOCH_FINAL : 0);
	frame.offset = agent.last_complete;
	frame.length = agent.epoch_bytes;
	if (misbehave && !strcmp(agent.misbehave, "order"))
		frame.offset += 100;
	if (misbehave && !strcmp(agent.misbehave, "behind") && frame.offset)
		frame.offset--;
	if (!misbehave || strcmp(agent.misbehave, "no-begin"))
		r = send_frame(agent.fd, &frame, NULL);
	for (size_t i = 0; i < agent.extent_count && !r; i++) {
		const struct extent *e = &agent.extents[i];
		/* An extent that a later one overlaps is sent as it is by now: that is what a disk would give. */
		const char *data = agent.disks[e->disk].data + e->offset;

		for (uint64_t done = 0; done < e->length && !r;) {
			uint64_t n = e->length - done < WIRE_PAYLOAD_MAX ? e->length - done : WIRE_PAYLOAD_MAX;

			frame = base;
			frame.seq = ++seq;
			frame.disk = e->disk + 1;
			frame.offset = e->offset + done;
			frame.length = n;
			frame.type = WIRE_DATA;
			if (e->zero && wire_is_zero(data + done, n))
				frame.type = WIRE_ZERO;
			else
				frame.payload_bytes = (uint32_t)n;
			if (misbehave && !i && !done && !strcmp(agent.misbehave, "tag-early")) {
				agent_tag(&base, &seq, &digest);
				frame.seq = ++seq;
			}
			if (misbehave && i == agent.extent_count / 2 && agent_misbehave(&frame, data + done))
				return 1;
			r = send_frame(agent.fd, &frame, data + done);
			digest = wire_digest_add(digest, &frame);
			bytes += n;
			done += n;
		}
		if (!r && !(i % 16))
			r = agent_poll();
		if (agent.fatal)
			return -ECONNABORTED;
	}
	for (unsigned d = 0; d < agent.disk_count && final && !r; d++) {
		for (uint64_t at = 0; at < agent.disks[d].bytes && !r; at += frame.length) {
			uint8_t hash[16];

			frame = base;
			frame.type = WIRE_VERIFY;
			frame.seq = ++seq;
			frame.disk = d + 1;
			frame.offset = at;
			frame.length = agent.disks[d].bytes - at;
			if (frame.length > 4 << 20)
				frame.length = 4 << 20;
			frame.payload_bytes = sizeof(hash);
			wire_hash(agent.disks[d].data + at, frame.length, hash);
			r = send_frame(agent.fd, &frame, hash);
			digest = wire_digest_add(digest, &frame);
		}
	}
	if (!r && (agent.tag || agent.tag_json))
		r = agent_tag(&base, &seq, &digest);
	if (!r && misbehave && !strcmp(agent.misbehave, "tag-twice"))
		r = agent_tag(&base, &seq, &digest);
	if (r)
		return r;
	frame = base;
	frame.type = WIRE_END;
	if (agent.consistent && !(misbehave && !strcmp(agent.misbehave, "tag-unclaimed")))
		frame.flags = WIRE_END_CONSISTENT;
	frame.seq = ++seq;
	frame.offset = digest + (misbehave && !strcmp(agent.misbehave, "bad-digest"));
	frame.length = bytes;
	agent.sent_bytes += bytes;
	r = send_frame(agent.fd, &frame, NULL);
	return r ? r : misbehave ? 1 : 0;
}

/* Until the epoch has the acknowledgement that was asked for. */
static void agent_epoch(uint64_t *epoch, bool final)
{
	bool sent = false;
	int r;

	for (;;) {
		struct wire_frame frame;

		if (now_ns() > agent.deadline_ns)
			die(3, "epoch %" PRIu64 ": time is up", *epoch);
		if (agent.fatal && agent.misbehave && *epoch >= agent.misbehave_at)
			exit(0); /* it complained while the epoch was still being sent */
		if (agent.fatal)
			die(4, "epoch %" PRIu64 ": refused", *epoch);
		if (agent.fd < 0) {
			sent = false;
			if (agent_connect() < 0) {
				usleep(200000);
				continue;
			}
		}
		if (!*epoch)
			*epoch = (agent.max_epoch > agent.last_complete ? agent.max_epoch : agent.last_complete) + 1;
		if (agent.last_applied >= *epoch || agent.acked_applied >= *epoch ||
		    (!agent.applied && (agent.last_complete >= *epoch || agent.acked_spooled >= *epoch)))
			break;
		if (!sent) {
			bool misbehave = agent.misbehave && *epoch >= agent.misbehave_at;

			r = agent_send(*epoch, final, misbehave);
			if (r == 1) {
				do
					r = read_frame(agent.fd, &frame, agent.payload, now_ns() + 20000000000u);
				while (!r && (agent_take(&frame), true));
				say("closed %s", strerror(-r));
				exit(r == -ETIMEDOUT && !agent.complained ? 3 : 0);
			}
			if (!r)
				sent = true;
		} else {
			r = read_frame(agent.fd, &frame, agent.payload, now_ns() + 1000000000u);
			if (!r)
				agent_take(&frame);
			if (r == -ETIMEDOUT)
				continue;
		}
		if (r) { /* take the reason that may be waiting */
			while (!agent.complained && !read_frame(agent.fd, &frame, agent.payload, now_ns() + 200000000u))
				agent_take(&frame);
			agent.complained = false;
			agent_drop(strerror(-r));
		}
	}
	agent.last_complete = *epoch;
	if (!agent.committed_given)
		agent.committed = *epoch;
	say("epoch %" PRIu64 " done", *epoch);
}

static int agent_main(void)
{
	uint64_t epoch = 0, start;

	agent.deadline_ns = now_ns() + agent.deadline_ns * 1000000000u;
	random_state = agent.seed;
	if (!agent.disk_count) {
		strcpy(agent.disks[0].name, "root");
		agent.disks[0].bytes = 64 << 20;
		agent.disk_count = 1;
	}
	for (unsigned i = 0; i < agent.disk_count; i++) {
		char path[512];
		int fd = -1;

		if (agent.image) {
			snprintf(path, sizeof(path), "%s%s.img", agent.image, agent.disks[i].name);
			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
			if (fd < 0 || ftruncate(fd, (off_t)agent.disks[i].bytes) < 0)
				die(1, "%s: %s", path, strerror(errno));
		}
		agent.disks[i].data = mmap(NULL, agent.disks[i].bytes, PROT_READ | PROT_WRITE,
					   fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
		if (agent.disks[i].data == MAP_FAILED)
			die(1, "disk %s: no memory", agent.disks[i].name);
		if (fd >= 0)
			close(fd);
	}
	if (agent.misbehave && (!strncmp(agent.misbehave, "hello", 5) || !strcmp(agent.misbehave, "no-hello"))) {
		struct wire_frame frame;
		int r = agent_connect();

		while (!r) {
			r = read_frame(agent.fd, &frame, agent.payload, now_ns() + 20000000000u);
			if (!r)
				agent_take(&frame);
		}
		say("closed %s", strerror(-r));
		return r == -ETIMEDOUT ? 3 : 0;
	}
	while (!agent.epochs) {
		if (!agent_connect())
			return 0;
		if (agent.fatal)
			return 4;
		if (now_ns() > agent.deadline_ns)
			return 3;
		usleep(200000);
	}
	start = now_ns();
	for (uint64_t i = 0; i < agent.epochs; i++) {
		agent_change();
		agent_epoch(&epoch, agent.final && i == agent.epochs - 1);
		epoch++;
		usleep(agent.pause_ms * 1000);
	}
	say("rate %" PRIu64 " %.3f", agent.sent_bytes, (double)(now_ns() - start) / 1e9);
	for (unsigned i = 0; i < agent.disk_count; i++) {
		char hash[33];

		hash_text(agent.disks[i].data, agent.disks[i].bytes, hash);
		say("image %s %s %s", agent.machine, agent.disks[i].name, hash);
	}
	return 0;
}

/* ---- master target ----------------------------------------------------------------------- */

struct staged {
	struct staged *next;
	struct wire_frame frame;
	char payload[];
};

struct target { /* one machine */
	char machine[64];
	struct {
		uint32_t id;
		char name[32];
		uint64_t bytes;
		int fd;
	} disks[DISKS_MAX];
	unsigned disk_count;
	uint64_t last_applied, max_epoch;
	bool released;
	/* the open epoch; survives the connection */
	uint64_t epoch, attempt, previous, digest, bytes;
	uint32_t seq, flags;
	bool skip;
	struct staged *first, **last;
};

struct peer {
	int fd;
	struct target *target;
	uint8_t header[WIRE_HEADER_BYTES];
	size_t have;
	struct wire_frame frame;
	struct staged *staged;
	uint64_t frames_left;
	struct {
		uint64_t at_ns;
		struct wire_frame frame;
		char text[256];
	} late[16];
	unsigned late_count;
};

static struct {
	const char *listen, *dir, *refuse;
	uint64_t epochs, ack_delay_ms, refuse_epoch, vanish_every, slow_kbps, seed;
	bool discard, mute, bad;
	struct peer peers[PEERS_MAX];
	struct target targets[PEERS_MAX];
	unsigned target_count;
	uint64_t applied, bytes, first_ns, last_ns;
} mt = { .seed = 1 };

static volatile sig_atomic_t stop, report;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		report = 1;
	else
		stop = 1;
}

static void target_clear(struct target *t)
{
	while (t->first) {
		struct staged *s = t->first;

		t->first = s->next;
		free(s);
	}
	t->last = &t->first;
	t->epoch = 0;
	t->seq = 0;
	t->digest = 0;
	t->bytes = 0;
}

static struct target *target_get(const char *machine, json_t *disks)
{
	struct target *t = NULL;
	char path[600];
	json_t *state, *disk;
	size_t i;

	for (unsigned n = 0; n < mt.target_count; n++)
		if (!strcmp(mt.targets[n].machine, machine))
			t = &mt.targets[n];
	if (!t) {
		if (mt.target_count == PEERS_MAX)
			die(1, "too many machines");
		t = &mt.targets[mt.target_count++];
		snprintf(t->machine, sizeof(t->machine), "%s", machine);
		snprintf(path, sizeof(path), "%s/%s.json", mt.dir, machine);
		state = json_load_file(path, 0, NULL);
		t->last_applied = (uint64_t)json_integer_value(json_object_get(state, "last_applied"));
		t->max_epoch = (uint64_t)json_integer_value(json_object_get(state, "max_epoch"));
		json_decref(state);
		target_clear(t);
	}
	json_array_foreach(disks, i, disk) {
		unsigned n;

		for (n = 0; n < t->disk_count; n++)
			if (t->disks[n].id == (uint32_t)json_integer_value(json_object_get(disk, "id")))
				break;
		if (n < t->disk_count || n == DISKS_MAX)
			continue;
		t->disk_count++;
		t->disks[n].id = (uint32_t)json_integer_value(json_object_get(disk, "id"));
		t->disks[n].bytes = (uint64_t)json_integer_value(json_object_get(disk, "size_bytes"));
		snprintf(t->disks[n].name, sizeof(t->disks[n].name), "%s",
			 json_string_value(json_object_get(disk, "name")) ?: "?");
		t->disks[n].fd = -1;
		if (mt.discard)
			continue;
		snprintf(path, sizeof(path), "%s/%s-%s.img", mt.dir, machine, t->disks[n].name);
		t->disks[n].fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (t->disks[n].fd < 0 || ftruncate(t->disks[n].fd, (off_t)t->disks[n].bytes) < 0)
			die(1, "%s: %s", path, strerror(errno));
	}
	return t;
}

static void target_save(const struct target *t)
{
	char path[600], temporary[640];
	json_t *state = json_pack("{s:I,s:I}", "last_applied", (json_int_t)t->last_applied, "max_epoch",
				  (json_int_t)t->max_epoch);

	snprintf(path, sizeof(path), "%s/%s.json", mt.dir, t->machine);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (json_dump_file(state, temporary, 0) < 0 || rename(temporary, path) < 0)
		die(1, "%s: %s", path, strerror(errno));
	json_decref(state);
}

static void print_images(void)
{
	for (unsigned i = 0; i < mt.target_count; i++) {
		for (unsigned d = 0; d < mt.targets[i].disk_count && !mt.discard; d++) {
			size_t bytes = mt.targets[i].disks[d].bytes;
			void *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, mt.targets[i].disks[d].fd, 0);
			char hash[33];

			if (data == MAP_FAILED)
				die(1, "cannot map an image");
			hash_text(data, bytes, hash);
			munmap(data, bytes);
			say("image %s %s %s", mt.targets[i].machine, mt.targets[i].disks[d].name, hash);
		}
	}
	say("rate %" PRIu64 " %.3f", mt.bytes, (double)(mt.last_ns - mt.first_ns) / 1e9);
}

static void peer_close(struct peer *p)
{
	free(p->staged);
	close(p->fd);
	memset(p, 0, sizeof(*p));
	p->fd = -1;
}

static int peer_bad(struct peer *p, const char *why)
{
	say("bad %s epoch %" PRIu64 " seq %u %s: %s", p->target ? p->target->machine : "?", p->frame.epoch, p->frame.seq,
	    wire_type_name(p->frame.type), why);
	mt.bad = true;
	return -EPROTO;
}

static int peer_error(struct peer *p, const char *code, const char *message)
{
	return send_json(p->fd, WIRE_ERROR, (struct wire_frame){ .epoch = p->frame.epoch },
			 json_pack("{s:s,s:s,s:s,s:b}", "code", code, "message", message, "remedy", "ask wirepeer's caller",
				   "fatal", 1));
}

static void peer_ack(struct peer *p, const struct wire_frame *ack, const char *text)
{
	if (mt.mute)
		return;
	if (mt.ack_delay_ms && p->late_count < ARRAY_LENGTH(p->late)) {
		p->late[p->late_count].at_ns = now_ns() + mt.ack_delay_ms * 1000000u;
		p->late[p->late_count].frame = *ack;
		snprintf(p->late[p->late_count].text, sizeof(p->late[0].text), "%s", text);
		p->late_count++;
		return;
	}
	struct wire_frame frame = *ack;

	frame.payload_bytes = (uint32_t)strlen(text);
	send_frame(p->fd, &frame, text);
}

static int peer_hello(struct peer *p, json_t *hello)
{
	const char *machine = json_string_value(json_object_get(hello, "machine"));
	struct target *t;
	json_t *partial = json_null();

	if (!machine)
		return peer_bad(p, "HELLO names no machine");
	if (mt.refuse) {
		peer_error(p, mt.refuse, "refused, as told");
		return -EACCES;
	}
	t = p->target = target_get(machine, json_object_get(hello, "disks"));
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (&mt.peers[i] != p && mt.peers[i].fd >= 0 && mt.peers[i].target == t)
			peer_close(&mt.peers[i]);
	if (t->epoch && !t->skip) {
		partial = json_pack("{s:I,s:I,s:i}", "epoch", (json_int_t)t->epoch, "attempt", (json_int_t)t->attempt,
				    "seq", (int)t->seq);
		say("partial %s %" PRIu64 " %u", t->machine, t->epoch, t->seq);
	} else {
		target_clear(t);
	}
	return send_json(p->fd, WIRE_HELLO_ACK, (struct wire_frame){ 0 },
			 json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:o}", "program", "wirepeer", "version", "0", "last_complete",
				   (json_int_t)t->last_applied, "last_applied", (json_int_t)t->last_applied, "max_epoch",
				   (json_int_t)t->max_epoch, "max_epoch_bytes", (json_int_t)1 << 30, "partial", partial));
}

static int peer_end(struct peer *p)
{
	struct target *t = p->target;
	struct wire_frame ack = { .type = WIRE_ACK, .flags = WIRE_ACK_APPLIED, .epoch = t->epoch, .attempt = t->attempt };
	char text[256] = "";

	if (t->skip) {
		say("skipped %s %" PRIu64, t->machine, t->epoch);
	} else {
		if (p->frame.offset != t->digest || p->frame.length != t->bytes)
			return peer_bad(p, "digest or count of bytes is wrong");
		for (struct staged *s = t->first; s; s = s->next) {
			const struct wire_frame *f = &s->frame;
			unsigned d = 0;
			char *zero = NULL;

			while (f->type != WIRE_TAG && d < t->disk_count && t->disks[d].id != f->disk)
				d++;
			if (f->type == WIRE_TAG) {
				say("tag %.*s", (int)f->payload_bytes, s->payload);
				continue;
			}
			if (d == t->disk_count || f->offset + f->length > t->disks[d].bytes)
				return peer_bad(p, "no such disk, or beyond its end");
			if (f->type == WIRE_VERIFY) {
				char *data = malloc(f->length);
				uint8_t hash[16];

				if (!data || pread(t->disks[d].fd, data, f->length, (off_t)f->offset) != (ssize_t)f->length)
					die(1, "image: %s", strerror(errno));
				wire_hash(data, f->length, hash);
				free(data);
				if (memcmp(hash, s->payload, 16) && !text[0])
					snprintf(text, sizeof(text),
						 "{\"mismatch\":[{\"disk\":%u,\"offset\":%" PRIu64 ",\"length\":%" PRIu64 "}]}",
						 f->disk, f->offset, f->length);
				continue;
			}
			if (f->type == WIRE_ZERO)
				zero = calloc(1, f->length);
			if (pwrite(t->disks[d].fd, zero ? zero : s->payload, f->length, (off_t)f->offset) !=
			    (ssize_t)f->length)
				die(1, "image: %s", strerror(errno));
			free(zero);
		}
		t->last_applied = t->epoch;
		if (t->flags & WIRE_EPOCH_FINAL && !text[0])
			t->released = true;
		target_save(t);
		mt.applied++;
		say("applied %s %" PRIu64, t->machine, t->epoch);
	}
	if (t->released)
		ack.flags |= WIRE_ACK_RELEASED;
	target_clear(t);
	peer_ack(p, &ack, text);
	return 0;
}

static int peer_frame(struct peer *p)
{
	struct wire_frame *f = &p->frame;
	struct target *t = p->target;
	struct staged *s = p->staged;

	if (f->payload_bytes && wire_crc(s->payload, f->payload_bytes) != f->payload_crc)
		return peer_bad(p, "payload CRC");
	if (f->type == WIRE_PING)
		return send_frame(p->fd, &(struct wire_frame){ .type = WIRE_PONG }, NULL);
	if (f->type == WIRE_PONG)
		return 0;
	if (f->type == WIRE_HELLO) {
		json_t *hello = json_loadb(s->payload, f->payload_bytes, 0, NULL);
		int r;

		say("hello %.*s", (int)f->payload_bytes, s->payload);
		r = peer_hello(p, hello);
		json_decref(hello);
		return r;
	}
	if (!t)
		return peer_bad(p, "before HELLO");
	if (f->type == WIRE_BEGIN) {
		target_clear(t);
		t->epoch = f->epoch;
		t->attempt = f->attempt;
		t->flags = f->flags;
		t->seq = 1;
		t->skip = f->epoch <= t->last_applied;
		if (f->epoch > t->max_epoch)
			t->max_epoch = f->epoch;
		if ((!t->skip && f->offset != t->last_applied) || f->epoch == mt.refuse_epoch) {
			say("refused %s %" PRIu64 ": previous %" PRIu64 ", applied %" PRIu64, t->machine, f->epoch,
			    f->offset, t->last_applied);
			target_clear(t);
			peer_error(p, "resync-needed", "the epoch does not follow the last one applied");
			return -EACCES;
		}
		return 0;
	}
	if (f->epoch != t->epoch || f->attempt != t->attempt)
		return peer_bad(p, "of an epoch or attempt that was not begun");
	if (f->type == WIRE_ABORT) {
		say("aborted %s %" PRIu64, t->machine, f->epoch);
		target_clear(t);
		return 0;
	}
	if (f->seq != t->seq)
		return peer_bad(p, "out of sequence");
	t->seq++;
	if (f->type == WIRE_END)
		return peer_end(p);
	t->digest = wire_digest_add(t->digest, f);
	if (f->type == WIRE_DATA || f->type == WIRE_ZERO)
		t->bytes += f->length;
	if (!t->skip && !mt.discard) {
		if (!s)
			s = calloc(1, sizeof(*s));
		s->frame = *f;
		*t->last = s;
		t->last = &s->next;
		p->staged = NULL; /* now the target's */
	}
	return 0;
}

/* Read what is there, at most @budget bytes. */
static int peer_read(struct peer *p, size_t budget)
{
	while (budget) {
		size_t want = p->have < WIRE_HEADER_BYTES ? WIRE_HEADER_BYTES - p->have :
			      WIRE_HEADER_BYTES + p->frame.payload_bytes - p->have;
		char *to = p->have < WIRE_HEADER_BYTES ? (char *)p->header + p->have :
			   p->staged->payload + (p->have - WIRE_HEADER_BYTES);
		ssize_t n = recv(p->fd, to, want < budget ? want : budget, MSG_DONTWAIT);
		int r;

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (!n)
			return -EPIPE;
		if (!mt.first_ns)
			mt.first_ns = now_ns();
		mt.bytes += (uint64_t)n;
		budget -= (size_t)n;
		p->have += (size_t)n;
		if (p->have < WIRE_HEADER_BYTES)
			continue;
		if (p->have == WIRE_HEADER_BYTES) {
			const char *why;

			if (wire_decode(p->header, &p->frame, &why))
				return peer_bad(p, why);
			if (p->frame.payload_bytes && (!p->staged || !mt.discard)) {
				size_t room = mt.discard ? WIRE_PAYLOAD_MAX : p->frame.payload_bytes;

				free(p->staged);
				p->staged = malloc(sizeof(*p->staged) + room);
				if (!p->staged)
					die(1, "out of memory");
				p->staged->next = NULL;
			}
			if (p->frame.payload_bytes)
				continue;
		}
		if (p->have < WIRE_HEADER_BYTES + p->frame.payload_bytes)
			continue;
		p->have = 0;
		r = peer_frame(p);
		mt.last_ns = now_ns();
		if (!mt.discard || r) {
			free(p->staged);
			p->staged = NULL;
		}
		if (r)
			return r;
		if (mt.vanish_every && !--p->frames_left) {
			say("vanish %s", p->target ? p->target->machine : "?");
			return -ECONNRESET;
		}
	}
	return 0;
}

static int mt_main(void)
{
	struct sockaddr_in address = parse_address(mt.listen);
	socklen_t length = sizeof(address);
	struct sigaction action = { .sa_handler = on_signal };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 16) < 0)
		die(1, "%s: %s", mt.listen, strerror(errno));
	getsockname(listener, (struct sockaddr *)&address, &length);
	say("listening 127.0.0.1:%u", ntohs(address.sin_port));
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	random_state = mt.seed;
	for (unsigned i = 0; i < PEERS_MAX; i++)
		mt.peers[i].fd = -1;

	while (!stop && (!mt.epochs || mt.applied < mt.epochs)) {
		struct pollfd pollers[PEERS_MAX + 1] = { { .fd = listener, .events = POLLIN } };
		int wait_ms = 500;

		for (unsigned i = 0; i < PEERS_MAX; i++) {
			struct peer *p = &mt.peers[i];

			pollers[i + 1] = (struct pollfd){ .fd = p->fd, .events = POLLIN };
			if (p->fd < 0 || !p->late_count)
				continue;
			wait_ms = 5;
			if (now_ns() >= p->late[0].at_ns) {
				p->late[0].frame.payload_bytes = (uint32_t)strlen(p->late[0].text);
				send_frame(p->fd, &p->late[0].frame, p->late[0].text);
				memmove(&p->late[0], &p->late[1], --p->late_count * sizeof(p->late[0]));
			}
		}
		poll(pollers, PEERS_MAX + 1, wait_ms);
		if (report) {
			report = 0;
			print_images();
		}
		if (pollers[0].revents) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			unsigned i = 0;

			while (i < PEERS_MAX && mt.peers[i].fd >= 0)
				i++;
			if (fd >= 0 && i == PEERS_MAX) {
				close(fd);
			} else if (fd >= 0) {
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				mt.peers[i].fd = fd;
				mt.peers[i].frames_left = mt.vanish_every ? 1 + next_random() % (2 * mt.vanish_every) : 0;
			}
		}
		for (unsigned i = 0; i < PEERS_MAX; i++) {
			struct peer *p = &mt.peers[i];

			if (p->fd < 0 || p->fd != pollers[i + 1].fd || !pollers[i + 1].revents)
				continue;
			if (peer_read(p, mt.slow_kbps ? 65536 : 8 << 20))
				peer_close(p);
			if (mt.slow_kbps)
				usleep((useconds_t)(64 * 1000000u / mt.slow_kbps));
		}
	}
	/* let the last acknowledgements arrive */
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (mt.peers[i].fd >= 0)
			shutdown(mt.peers[i].fd, SHUT_WR);
	print_images();
	return mt.bad;
}

/* ---- command line ------------------------------------------------------------------------ */

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "connect", 1, 0, 'c' },     { "machine", 1, 0, 'm' },	     { "disk", 1, 0, 'd' },
		{ "epochs", 1, 0, 'n' },      { "epoch-bytes", 1, 0, 'b' },  { "frame-bytes", 1, 0, 'f' },
		{ "fixed", 0, 0, 'F' },	      { "zero-percent", 1, 0, 'z' }, { "seed", 1, 0, 's' },
		{ "ack", 1, 0, 'a' },	      { "pause-ms", 1, 0, 'p' },     { "image", 1, 0, 'i' },
		{ "committed", 1, 0, 'C' },   { "final", 0, 0, 'L' },	     { "fuzzy", 0, 0, 'Y' },
		{ "initial", 0, 0, 'I' },     { "timeout", 1, 0, 't' },	     { "misbehave", 1, 0, 'x' },
		{ "misbehave-at", 1, 0, 'X' }, { "listen", 1, 0, 'l' },	     { "dir", 1, 0, 'D' },
		{ "discard", 0, 0, 'N' },     { "ack-delay-ms", 1, 0, 'A' }, { "refuse", 1, 0, 'R' },
		{ "refuse-epoch", 1, 0, 'E' }, { "vanish-every", 1, 0, 'V' }, { "slow-kbps", 1, 0, 'S' },
		{ "mute", 0, 0, 'M' },	      { "consistent", 0, 0, 'k' }, { "tag", 1, 0, 'g' },
		{ "tag-json", 1, 0, 'G' },    { 0 },
	};
	bool as_agent = argc > 1 && !strcmp(argv[1], "agent");
	int option;

	if (!as_agent && (argc < 2 || strcmp(argv[1], "mt")))
		die(2, "usage: wirepeer agent --connect HOST:PORT ... | wirepeer mt --listen HOST:PORT --dir DIR ...");
	while ((option = getopt_long(argc - 1, argv + 1, "", options, NULL)) != -1) {
		switch (option) {
		case 'c': agent.connect = optarg; break;
		case 'm': agent.machine = optarg; break;
		case 'd': {
			char *colon = strchr(optarg, ':');

			if (!colon || agent.disk_count == DISKS_MAX)
				die(2, "--disk NAME:BYTES, at most %d", DISKS_MAX);
			snprintf(agent.disks[agent.disk_count].name, sizeof(agent.disks[0].name), "%.*s",
				 (int)(colon - optarg), optarg);
			agent.disks[agent.disk_count++].bytes = parse_bytes(colon + 1);
			break;
		}
		case 'n': agent.epochs = mt.epochs = strtoull(optarg, NULL, 0); break;
		case 'b': agent.epoch_bytes = parse_bytes(optarg); break;
		case 'f': agent.frame_bytes = parse_bytes(optarg); break;
		case 'F': agent.fixed = true; break;
		case 'z': agent.zero_percent = (unsigned)atoi(optarg); break;
		case 's': agent.seed = mt.seed = strtoull(optarg, NULL, 0); break;
		case 'a': agent.applied = strcmp(optarg, "spooled") != 0; break;
		case 'p': agent.pause_ms = (unsigned)atoi(optarg); break;
		case 'i': agent.image = optarg; break;
		case 'C': agent.committed = strtoull(optarg, NULL, 0); agent.committed_given = true; break;
		case 'L': agent.final = true; break;
		case 'Y': agent.flags |= WIRE_EPOCH_FUZZY; break;
		case 'I': agent.flags |= WIRE_EPOCH_INITIAL; break;
		case 't': agent.deadline_ns = strtoull(optarg, NULL, 0); break;
		case 'x': agent.misbehave = optarg; break;
		case 'X': agent.misbehave_at = strtoull(optarg, NULL, 0); break;
		case 'l': mt.listen = optarg; break;
		case 'D': mt.dir = optarg; break;
		case 'N': mt.discard = true; break;
		case 'A': mt.ack_delay_ms = strtoull(optarg, NULL, 0); break;
		case 'R': mt.refuse = optarg; break;
		case 'E': mt.refuse_epoch = strtoull(optarg, NULL, 0); break;
		case 'V': mt.vanish_every = strtoull(optarg, NULL, 0); break;
		case 'S': mt.slow_kbps = strtoull(optarg, NULL, 0); break;
		case 'M': mt.mute = true; break;
		case 'k': agent.consistent = true; break;
		case 'g': agent.tag = optarg; agent.consistent = true; break;
		case 'G': agent.tag_json = optarg; agent.consistent = true; break;
		default: return 2;
		}
	}
	if (as_agent && (!agent.connect || !agent.frame_bytes || agent.frame_bytes % 4096))
		die(2, "agent: --connect HOST:PORT is needed; --frame-bytes is a multiple of 4096");
	if (!as_agent && (!mt.listen || !mt.dir))
		die(2, "mt: --listen HOST:PORT and --dir DIR are needed");
	return as_agent ? agent_main() : mt_main();
}
