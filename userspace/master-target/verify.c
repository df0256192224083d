// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * verify: see verify.h. Up to eight reads of 1 MiB ahead, hashed in order as they arrive.
 * Its buffers are the pool's reserve: a reader always gets one in the end, because
 * whoever holds them is reading and gives them back.
 */
#include <errno.h>
#include <string.h>

#include "util.h"
#include "verify.h"

static void pump(struct verify *verify);

static void wake(void *user)
{
	struct verify *verify = user;

	if (verify->active)
		pump(verify);
}

int verify_init(struct verify *verify)
{
	verify->hasher = wire_hasher_new();
	if (!verify->hasher)
		return -ENOMEM;
	verify->client.wake = wake;
	verify->client.user = verify;
	return 0;
}

void verify_destroy(struct verify *verify)
{
	wire_hasher_free(verify->hasher);
	verify->hasher = NULL;
}

static void finish(struct verify *verify)
{
	uint8_t hash[16];

	verify->active = false;
	pool_leave(&verify->client);
	wire_hasher_end(verify->hasher, hash);
	verify->finished(verify->user, !verify->error && !memcmp(hash, verify->expected, sizeof(hash)),
			 verify->error);
}

static void piece_done(struct io_request *io, int result)
{
	struct verify_piece *piece = io->user;
	struct verify *verify = piece->verify;

	piece->done = true;
	if (result && !verify->error)
		verify->error = result;
	pump(verify);
}

static bool read_next(struct verify *verify)
{
	struct verify_piece *piece =
		&verify->pieces[(verify->first + verify->used) % POOL_VERIFY_BUFFERS];
	uint32_t align = verify->target->align;
	uint64_t from = verify->read_at - verify->read_at % align;
	char *buffer = pool_get(&verify->client, POOL_VERIFY);

	if (!buffer)
		return false;
	piece->verify = verify;
	piece->buffer = buffer;
	piece->offset = verify->read_at;
	piece->bytes = verify->end - verify->read_at;
	if (piece->bytes > from + POOL_LARGE_BYTES - verify->read_at)
		piece->bytes = from + POOL_LARGE_BYTES - verify->read_at;
	piece->done = false;
	verify->read_at += piece->bytes;
	verify->used++;
	piece->io = (struct io_request){
		.op = IO_READ,
		.fd = verify->target->fd,
		.buffer = pool_index(verify->pool, buffer),
		.data = buffer,
		.offset = from,
		.bytes = (verify->read_at - from + align - 1) / align * align,
		.done = piece_done,
		.user = piece,
	};
	io_submit(verify->io, &piece->io);
	return true;
}

static void pump(struct verify *verify)
{
	while (verify->used && verify->pieces[verify->first].done) {
		struct verify_piece *piece = &verify->pieces[verify->first];

		if (!verify->error)
			wire_hasher_add(verify->hasher,
					piece->buffer + piece->offset % verify->target->align,
					piece->bytes);
		verify->first = (verify->first + 1) % POOL_VERIFY_BUFFERS;
		verify->used--;
		/* May wake another verify, never this one: it is not waiting now. */
		verify->client.waiting[POOL_VERIFY] = false;
		pool_put(verify->pool, &verify->client, piece->buffer);
	}
	while (!verify->error && verify->read_at < verify->end && verify->used < POOL_VERIFY_BUFFERS)
		if (!read_next(verify))
			break;
	if (!verify->used && (verify->error || verify->read_at == verify->end))
		finish(verify);
}

void verify_start(struct verify *verify, struct target *target, const struct wire_frame *frame,
		  const void *expected)
{
	memcpy(verify->expected, expected, sizeof(verify->expected));
	verify->target = target;
	verify->read_at = frame->offset;
	verify->end = frame->offset + frame->length;
	verify->first = verify->used = 0;
	verify->error = 0;
	verify->active = true;
	wire_hasher_reset(verify->hasher);
	pool_join(verify->pool, &verify->client);
	pump(verify);
}

void verify_stop(struct verify *verify)
{
	if (!verify->active)
		return;
	if (!verify->error)
		verify->error = -ECANCELED;
	if (!verify->used)
		finish(verify);
}
