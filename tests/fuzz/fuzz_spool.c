/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recovery of a spool whose segment file holds whatever the fuzzer likes. A byte of the input says how
 * it is dressed up: raw, behind a good header, or as a row of frames whose checksums are made right, so
 * that what lies behind the checksums is reached, too. Recovery must end, and twice in a row must find the same.
 *
 * LINK: userspace/process-server/ring.c userspace/process-server/segment.c userspace/process-server/spool.c userspace/process-server/spool_read.c userspace/process-server/spool_recover.c userspace/process-server/spool_store.c
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "log.h"
#include "userspace/process-server/spool.h"
#include "util.h"

#define MACHINE "00000000-0000-4000-8000-000000000001"

static struct spool_store store = { .dirfd = -1, .lockfd = -1 };

static void on_epoch(const struct spool_epoch *epoch, void *user) { (void)epoch; (void)user; }
static void on_failed(const struct spool_epoch *epoch, int error, void *user) { (void)epoch; (void)error; (void)user; }
static void nothing(void *user) { (void)user; }
static int save(void *user) { (void)user; return 0; }
static const struct spool_ops ops = { on_epoch, on_failed, nothing, nothing, save };

static void put(uint64_t number, const uint8_t *data, size_t bytes, unsigned dress)
{
	char path[sizeof(MACHINE) + SEGMENT_NAME_BYTES], name[SEGMENT_NAME_BYTES];
	struct segment_header header = { .machine = MACHINE, .number = number };
	uint8_t block[SEGMENT_HEADER_BYTES];
	int fd;

	segment_name(number, name);
	snprintf(path, sizeof(path), MACHINE "/%s", name);
	fd = openat(store.dirfd, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		abort();
	segment_encode(&header, block);
	if (dress && write(fd, block, sizeof(block)) < 0)
		abort();
	while (dress > 1 && bytes >= 8) { /* 8 bytes make a frame */
		struct wire_frame f = { .type = (uint16_t)(data[0] % 14), .epoch = data[1], .attempt = data[2], .seq = data[3],
					.disk = data[4], .offset = data[5] * 512u, .length = data[6] * 512u };
		static uint8_t payload[256 * 512];

		if (f.type == WIRE_DATA)
			f.payload_bytes = (uint32_t)f.length;
		if (f.type == WIRE_VERIFY)
			f.payload_bytes = 16;
		if (f.type == WIRE_TAG) {
			f.payload_bytes = 2;
			f.disk = 0;
			f.offset = f.length = 0;
		}
		f.payload_crc = f.payload_bytes ? wire_crc(payload, f.payload_bytes) : 0;
		if (data[7] == 0xff)
			f.payload_crc ^= 1;
		wire_encode(&f, block);
		segment_mark(block, number);
		if (write(fd, block, WIRE_HEADER_BYTES) < 0 || write(fd, payload, f.payload_bytes) < 0)
			abort();
		data += 8;
		bytes -= 8;
	}
	if (write(fd, data, bytes) < 0)
		abort();
	close(fd);
}

static void recover(unsigned *count, uint64_t *last)
{
	struct spool_known known = { 0 };
	struct spool *spool;
	char error[256];

	*count = 0;
	*last = 0;
	if (spool_open(&spool, &store, MACHINE, &known, &ops, NULL, error, sizeof(error)))
		abort();
	for (const struct spool_epoch *e = spool->epochs; e; e = e->next) {
		if (e->start >= e->end || e->state == SPOOL_OPEN || e->state == SPOOL_ENDED)
			abort();
		*count += e->state == SPOOL_COMPLETE;
	}
	*last = spool->last_complete;
	spool_free(spool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	unsigned count[2];
	uint64_t last[2];
	char error[256];

	if (store.dirfd < 0) {
		const char *parent = getenv("TMPDIR");
		static char dir[256];

		snprintf(dir, sizeof(dir), "%s/fuzz_spool.XXXXXX", parent ? parent : "/dev/shm");
		log_init("fuzz", (enum log_level)0);
		if (!mkdtemp(dir) || spool_store_open(&store, dir, error, sizeof(error)) || mkdirat(store.dirfd, MACHINE, 0700))
			abort();
	}
	if (bytes < 2)
		return 0;
	/* One file, or two. */
	if (data[1] & 1) {
		put(1, data + 2, (bytes - 2) / 2, data[0] % 3);
		put(2, data + 2 + (bytes - 2) / 2, bytes - 2 - (bytes - 2) / 2, data[0] / 3 % 3);
	} else {
		put(1, data + 2, bytes - 2, data[0] % 3);
		unlinkat(store.dirfd, MACHINE "/0000000000000002.seg", 0);
	}
	recover(&count[0], &last[0]);
	recover(&count[1], &last[1]);
	if (count[0] != count[1] || last[0] != last[1])
		abort();
	return 0;
}
