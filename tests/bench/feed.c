// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * feed: plays the process server of one machine with one disk and gives epochs to a master target as fast
 * as that takes them. Called by tests/bench/undo.
 *
 *	feed [OPTION...] HOST:PORT DISK_BYTES PATTERN EPOCHS WRITES
 *
 * Each of EPOCHS epochs has WRITES frames and ends as consistent. PATTERN:
 *
 *	4k	4 KiB at random
 *	64k	64 KiB at random, one fifth of it in runs of eight that lie one behind the other
 *	1m	1 MiB, one behind the other
 *	zero	as 4k, but ZERO frames: on a sparse image file they take no space
 *
 * No block comes twice in an epoch. All frames are made, and their checksums known, before the clock starts.
 *
 *	-m UUID	identity of the machine
 *	-s SEED	of places and content (default 1)
 *	-a	wait for each epoch to be applied before the next one begins; else they follow at once
 *	-n	the last epoch is not ended: wait for a line on standard input instead (with -a: after the others), then abort it
 *	-p FILE	instead of feeding: write the same as a log that fio replays (--read_iolog), onto @FILE, to standard output
 *	-c FILE	instead of feeding: exit status 1 if FILE has something else in the places of the last epoch
 *
 * Prints "SECONDS BYTES": from the first BEGIN until the last epoch was acknowledged as applied.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "../random.h"
#include "util.h"
#include "wire.h"

#define CONTENT_BYTES (64u * 1024u * 1024u) /* all that is sent comes from here */
#define CONTENT_STEP 4096u
#define SILENCE_MS 120000
#define VECTORS 256
#define DISK 1u

struct write {
	uint64_t offset;
	size_t content;
	uint32_t crc;
};

static struct {
	const char *machine;
	uint64_t seed, disk_bytes, epochs, writes;
	uint32_t bytes; /* of a write */
	bool zero, sequential, mixed, one_by_one, unended;
	char *content;
	struct write *plan; /* epochs * writes */
} feed = { .machine = "00000000-0000-4000-8000-0000000be7c4", .seed = 1 };

static int fd;
static uint64_t applied;

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *format, ...)
{
	va_list args;

	fputs("feed: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void *get(size_t bytes)
{
	void *memory = calloc(1, bytes);

	if (!memory)
		die("no memory for %zu bytes", bytes);
	return memory;
}

/* ---- what is sent --------------------------------------------------------- */

/* Places of one epoch. @taken: a bit for each place that the disk has. */
static void plan_epoch(struct write *plan, uint64_t first, uint64_t *random, uint64_t *taken, uint64_t places)
{
	uint64_t place = 0, run = 0;

	for (uint64_t i = 0; i < feed.writes; i++) {
		if (feed.sequential)
			place = (first + i) % places;
		else if (run)
			place = (place + 1) % places;
		else
			place = next_random(random) % places;
		if (!run && feed.mixed && i % 40 == 32)
			run = 8;
		while (taken && taken[place / 64] & 1ull << place % 64)
			place = (place + 1) % places;
		if (taken)
			taken[place / 64] |= 1ull << place % 64;
		if (run)
			run--;
		plan[i].offset = place * feed.bytes;
	}
	for (uint64_t i = 0; taken && i < feed.writes; i++)
		taken[plan[i].offset / feed.bytes / 64] = 0;
}

static void make_plan(void)
{
	uint64_t random = feed.seed * 0x9e3779b97f4a7c15ull | 1, places = feed.disk_bytes / feed.bytes;
	uint64_t *taken = feed.sequential ? NULL : get((places / 64 + 1) * 8);
	uint64_t spots = (CONTENT_BYTES - feed.bytes) / CONTENT_STEP + 1;

	if (feed.writes > places || (taken && feed.writes > places / 2))
		die("a disk of %" PRIu64 " bytes has no room for %" PRIu64 " writes in an epoch", feed.disk_bytes, feed.writes);
	feed.content = get(feed.zero ? 1 : CONTENT_BYTES);
	for (uint64_t *at = (void *)feed.content; !feed.zero && (char *)at < feed.content + CONTENT_BYTES; at++)
		*at = next_random(&random);
	feed.plan = get(feed.epochs * feed.writes * sizeof(*feed.plan));
	for (uint64_t epoch = 0; epoch < feed.epochs; epoch++)
		plan_epoch(feed.plan + epoch * feed.writes, epoch * feed.writes, &random, taken, places);
	for (uint64_t i = 0; !feed.zero && i < feed.epochs * feed.writes; i++)
		feed.plan[i].content = next_random(&random) % spots * CONTENT_STEP;
	free(taken);
}

static void print_fio(const char *path)
{
	printf("fio version 2 iolog\n%s add\n%s open\n", path, path);
	for (uint64_t i = 0; i < feed.epochs * feed.writes; i++) {
		printf("%s write %" PRIu64 " %u\n", path, feed.plan[i].offset, feed.bytes);
		if ((i + 1) % feed.writes == 0)
			printf("%s datasync 0 0\n", path);
	}
	printf("%s close\n", path);
}

static int check(const char *path)
{
	const struct write *last = feed.plan + (feed.epochs - 1) * feed.writes;
	CLEANUP_FD int file = open(path, O_RDONLY | O_CLOEXEC);
	char *is = get(feed.bytes);

	if (file < 0)
		die("%s: %s", path, strerror(errno));
	for (uint64_t i = 0; i < feed.writes; i++) {
		if (pread(file, is, feed.bytes, (off_t)last[i].offset) != (ssize_t)feed.bytes)
			die("%s: cannot read at %" PRIu64, path, last[i].offset);
		if (feed.zero ? !wire_is_zero(is, feed.bytes) : memcmp(is, feed.content + last[i].content, feed.bytes) != 0)
			die("%s: not what was sent at %" PRIu64, path, last[i].offset);
	}
	free(is);
	return 0;
}

/* ---- the connection ------------------------------------------------------- */

static void connect_to(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	const char *colon = strrchr(address, ':');
	char host[64];
	int one = 1;

	snprintf(host, sizeof(host), "%.*s", colon ? (int)(colon - address) : 0, address);
	if (!colon || inet_pton(AF_INET, host, &to.sin_addr) != 1)
		die("%s: not an address", address);
	to.sin_port = htons((uint16_t)atoi(colon + 1));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die("%s: %s", address, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void send_now(const struct wire_frame *frame, const void *payload)
{
	char header[WIRE_HEADER_BYTES];
	struct iovec iov[2] = { { header, sizeof(header) }, { (void *)(uintptr_t)payload, frame->payload_bytes } };

	wire_encode(frame, header);
	for (int i = 0; i < 2; i++)
		for (size_t done = 0; done < iov[i].iov_len;) {
			ssize_t n = send(fd, (char *)iov[i].iov_base + done, iov[i].iov_len - done, MSG_NOSIGNAL);

			if (n < 0)
				die("cannot send: %s", strerror(errno));
			done += (size_t)n;
		}
}

/* One frame; *@payload ends with a zero byte and is the caller's. */
static struct wire_frame receive(char **payload)
{
	char header[WIRE_HEADER_BYTES];
	struct wire_frame frame;
	const char *why = "";

	if (recv(fd, header, sizeof(header), MSG_WAITALL) != (ssize_t)sizeof(header))
		die("the master target closed the connection");
	if (wire_decode(header, &frame, &why))
		die("not a frame: %s", why);
	*payload = get(frame.payload_bytes + 1);
	if (frame.payload_bytes && recv(fd, *payload, frame.payload_bytes, MSG_WAITALL) != (ssize_t)frame.payload_bytes)
		die("the master target closed the connection inside a frame");
	return frame;
}

static void take_answer(void)
{
	CLEANUP_FREE char *payload = NULL;
	struct wire_frame frame = receive(&payload);

	if (frame.type == WIRE_ERROR)
		die("refused: %s", payload);
	if (frame.type == WIRE_PING)
		send_now(&(struct wire_frame){ .type = WIRE_PONG }, NULL);
	if (frame.type == WIRE_ACK && frame.flags & WIRE_ACK_APPLIED)
		applied = frame.epoch;
}

static bool answered(int wait_ms)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, wait_ms) > 0;
}

static void wait_applied(uint64_t epoch)
{
	while (applied < epoch) {
		if (!answered(SILENCE_MS))
			die("epoch %" PRIu64 " is not applied, and nothing was heard for %d s", epoch, SILENCE_MS / 1000);
		take_answer();
	}
}

/* Says hello; what the master target has applied, and the highest number it has seen. */
static void hello(uint64_t *last, uint64_t *highest)
{
	CLEANUP_JSON json_t *say = json_pack("{s:s, s:s, s:s, s:s, s:[{s:i, s:s, s:I, s:i}], s:i}", "program", "feed", "version", "0",
					     "machine", feed.machine, "host", "bench", "disks", "id", DISK, "name", "disk",
					     "size_bytes", (json_int_t)feed.disk_bytes, "granule_bytes", 4096, "committed", 0);
	CLEANUP_JSON json_t *answer = NULL;
	CLEANUP_FREE char *text = json_dumps(say, JSON_COMPACT);
	CLEANUP_FREE char *payload = NULL;
	struct wire_frame frame = { .type = WIRE_HELLO, .payload_bytes = (uint32_t)strlen(text) };

	frame.payload_crc = wire_crc(text, frame.payload_bytes);
	send_now(&frame, text);
	frame = receive(&payload);
	if (frame.type != WIRE_HELLO_ACK)
		die("no HELLO_ACK: %s", payload);
	answer = json_loads(payload, 0, NULL);
	*last = (uint64_t)json_integer_value(json_object_get(answer, "last_applied"));
	*highest = (uint64_t)json_integer_value(json_object_get(answer, "max_epoch"));
}

/* ---- feeding -------------------------------------------------------------- */

/* The frames of the epochs, ready to be sent: VECTORS at a time, so that a frame costs no call of its own. */
struct stream {
	char *headers; /* WIRE_HEADER_BYTES each */
	struct iovec *iov;
	size_t count, next; /* iov */
	size_t *ends;	    /* of each epoch in iov */
};

static void add(struct stream *stream, const struct wire_frame *frame, const void *payload)
{
	wire_encode(frame, stream->headers);
	stream->iov[stream->count++] = (struct iovec){ stream->headers, WIRE_HEADER_BYTES };
	if (frame->payload_bytes)
		stream->iov[stream->count++] = (struct iovec){ (void *)(uintptr_t)payload, frame->payload_bytes };
	stream->headers += WIRE_HEADER_BYTES;
}

static void add_epoch(struct stream *stream, const struct write *plan, uint64_t epoch, uint64_t previous, bool ended)
{
	struct wire_frame frame = { .type = WIRE_BEGIN, .epoch = epoch, .attempt = util_now_ns() | 1, .offset = previous,
				    .length = feed.writes * feed.bytes };
	uint64_t digest = 0;

	add(stream, &frame, NULL);
	frame.type = feed.zero ? WIRE_ZERO : WIRE_DATA;
	frame.disk = DISK;
	frame.length = feed.bytes;
	frame.payload_bytes = feed.zero ? 0 : feed.bytes;
	for (uint64_t i = 0; i < feed.writes; i++) {
		const char *content = feed.content + plan[i].content;

		frame.seq++;
		frame.offset = plan[i].offset;
		frame.payload_crc = feed.zero ? 0 : wire_crc(content, feed.bytes);
		digest = wire_digest_add(digest, &frame);
		add(stream, &frame, content);
	}
	frame = (struct wire_frame){ .type = WIRE_END, .flags = WIRE_END_CONSISTENT, .epoch = epoch, .attempt = frame.attempt,
				     .seq = frame.seq + 1, .offset = digest, .length = feed.writes * feed.bytes };
	if (!ended)
		frame = (struct wire_frame){ .type = WIRE_ABORT, .epoch = epoch, .attempt = frame.attempt };
	add(stream, &frame, NULL);
}

/* Send up to @end, taking what is answered meanwhile. */
static void send_to(struct stream *stream, size_t end)
{
	while (stream->next < end) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN | POLLOUT };
		struct msghdr message = { .msg_iov = stream->iov + stream->next };
		ssize_t sent;

		if (poll(&pollfd, 1, SILENCE_MS) <= 0)
			die("the master target takes nothing for %d s", SILENCE_MS / 1000);
		if (pollfd.revents & (POLLIN | POLLHUP | POLLERR))
			take_answer();
		if (!(pollfd.revents & POLLOUT))
			continue;
		message.msg_iovlen = end - stream->next < VECTORS ? end - stream->next : VECTORS;
		sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno != EAGAIN)
			die("cannot send: %s", strerror(errno));
		while (sent > 0) {
			struct iovec *iov = &stream->iov[stream->next];
			size_t step = (size_t)sent < iov->iov_len ? (size_t)sent : iov->iov_len;

			iov->iov_base = (char *)iov->iov_base + step;
			iov->iov_len -= step;
			sent -= (ssize_t)step;
			if (!iov->iov_len)
				stream->next++;
		}
	}
}

/* Until somebody writes a line, or closes. */
static void wait_line(void)
{
	for (;;) {
		struct pollfd pollfds[2] = { { .fd = fd, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };

		if (poll(pollfds, 2, -1) < 0)
			die("poll: %s", strerror(errno));
		if (pollfds[0].revents)
			take_answer();
		if (pollfds[1].revents)
			return;
	}
}

static void run(const char *address)
{
	uint64_t frames = feed.epochs * (feed.writes + 2), last, highest, began;
	struct stream stream = { .headers = get(frames * WIRE_HEADER_BYTES), .iov = get(2 * frames * sizeof(*stream.iov)),
				 .ends = get(feed.epochs * sizeof(*stream.ends)) };

	connect_to(address);
	hello(&last, &highest);
	for (uint64_t i = 0; i < feed.epochs; i++) {
		add_epoch(&stream, feed.plan + i * feed.writes, highest + i + 1, i ? highest + i : last,
			  !feed.unended || i + 1 < feed.epochs);
		stream.ends[i] = stream.count;
	}
	began = util_now_ns();
	for (uint64_t i = 0; i < feed.epochs; i++) {
		bool held = feed.unended && i + 1 == feed.epochs;

		send_to(&stream, stream.ends[i] - held);
		while (answered(0))
			take_answer();
		if (held) {
			puts("held");
			fflush(stdout);
			wait_line();
			send_to(&stream, stream.ends[i]);
		} else if (feed.one_by_one) {
			wait_applied(highest + i + 1);
		}
	}
	if (!feed.unended)
		wait_applied(highest + feed.epochs);
	printf("%.6f %" PRIu64 "\n", (double)(util_now_ns() - began) / 1e9, feed.epochs * feed.writes * feed.bytes);
}

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: feed [-m UUID] [-s SEED] [-a] [-n] [-p FILE | -c FILE] HOST:PORT DISK_BYTES 4k|64k|1m|zero EPOCHS WRITES\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		uint32_t bytes;
		bool zero, sequential, mixed;
	} patterns[] = { { "4k", 4096, false, false, false },
			 { "64k", 65536, false, false, true },
			 { "1m", 1048576, false, true, false },
			 { "zero", 4096, true, false, false } };
	const char *plan = NULL, *compare = NULL;
	int option;

	while ((option = getopt(argc, argv, "m:s:anp:c:")) != -1) {
		switch (option) {
		case 'm': feed.machine = optarg; break;
		case 's': feed.seed = strtoull(optarg, NULL, 0); break;
		case 'a': feed.one_by_one = true; break;
		case 'n': feed.unended = true; break;
		case 'p': plan = optarg; break;
		case 'c': compare = optarg; break;
		default: usage();
		}
	}
	if (argc - optind != 5)
		usage();
	feed.disk_bytes = strtoull(argv[optind + 1], NULL, 0);
	feed.epochs = strtoull(argv[optind + 3], NULL, 0);
	feed.writes = strtoull(argv[optind + 4], NULL, 0);
	for (size_t i = 0; i < ARRAY_LENGTH(patterns); i++)
		if (!strcmp(argv[optind + 2], patterns[i].name)) {
			feed.bytes = patterns[i].bytes;
			feed.zero = patterns[i].zero;
			feed.sequential = patterns[i].sequential;
			feed.mixed = patterns[i].mixed;
		}
	if (!feed.bytes || !feed.epochs || !feed.writes || feed.disk_bytes < feed.bytes)
		usage();
	make_plan();
	if (plan)
		print_fio(plan);
	else if (compare)
		return check(compare);
	else
		run(argv[optind]);
	return 0;
}
