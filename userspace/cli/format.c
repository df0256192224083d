// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * format: numbers as people read them. Pure; called by the commands that print tables.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "conf.h"

const char *format_duration(uint64_t ms, char *out, size_t out_bytes)
{
	uint64_t s = ms / 1000;

	if (!ms)
		snprintf(out, out_bytes, "0 s");
	else if (s < 60)
		snprintf(out, out_bytes, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
	else if (s < 3600)
		snprintf(out, out_bytes, "%" PRIu64 " min %02" PRIu64 " s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, out_bytes, "%" PRIu64 " h %02" PRIu64 " min", s / 3600, s % 3600 / 60);
	else
		snprintf(out, out_bytes, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
	return out;
}

const char *format_bar(uint64_t done, uint64_t total, unsigned width, char *out, size_t out_bytes)
{
	unsigned percent, filled;
	size_t used = 0;

	if (done > total)
		done = total;
	/* In floating point: total * 100 may not fit 64 bits. Never 100 before it is done. */
	percent = total ? (unsigned)((double)done / (double)total * 100.0) : 100;
	if (percent >= 100)
		percent = total && done < total ? 99 : 100;
	filled = width * percent / 100;
	if (out_bytes < (size_t)width + 9) {
		snprintf(out, out_bytes, "%u %%", percent);
		return out;
	}
	out[used++] = '[';
	for (unsigned i = 0; i < width; i++)
		out[used++] = i < filled ? '#' : '-';
	snprintf(out + used, out_bytes - used, "] %3u %%", percent);
	return out;
}

const char *format_rate(uint64_t bytes_per_s, char *out, size_t out_bytes)
{
	char bytes[32];

	snprintf(out, out_bytes, "%s/s", conf_format_bytes(bytes_per_s, bytes, sizeof(bytes)));
	return out;
}

const char *format_clean(const char *text, char *out, size_t out_bytes)
{
	size_t used = 0;

	for (; *text && used + 1 < out_bytes; text++)
		out[used++] = (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text;
	out[used] = '\0';
	return out;
}
