/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wall_time: moments as people write and read them. The command line and the master target share it, so that "03:12" means the
 * same to both. Pure, but for the time zone of the process (TZ, /etc/localtime).
 */
#ifndef REPROTECT_WALL_TIME_H
#define REPROTECT_WALL_TIME_H

#include <stdbool.h>
#include <stdint.h>

#define WALL_TIME_BYTES 40u

/**
 * wall_time_parse - a moment, in ms since 1970
 * @text: "2026-11-30 03:12", "2026-11-30T03:12:05.250Z", with ":05", ".250", "Z", "+01:00" or none of them; "03:12" and
 *	"03:12:05": of today; "@1796008320", "@1796008320.250": since 1970. Without a zone it is local; of a time that the clock shows
 *	twice (end of summer time) the first counts. Without seconds it is the beginning of the minute.
 * @now_ms: says what today is
 * @day: NULL, or whether the text names the day itself
 * Return: 0, or -EINVAL: not such a text, or a time that does not exist (30 February, the hour that summer time skips).
 */
int wall_time_parse(const char *text, uint64_t now_ms, uint64_t *ms, bool *day);

/** wall_time_text - "2026-11-30 03:12:05", local */
const char *wall_time_text(uint64_t ms, char out[WALL_TIME_BYTES]);
/** wall_time_zone - "CET (+0100)": of the local time at @ms */
const char *wall_time_zone(uint64_t ms, char out[WALL_TIME_BYTES]);
/** wall_time_rfc3339 - "2026-11-30T02:12:05.250Z" */
const char *wall_time_rfc3339(uint64_t ms, char out[WALL_TIME_BYTES]);

#endif
