/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log: messages of daemons, for the journal (priority prefixes on stderr) and for people
 * (plain text on a terminal). A message says what failed, on which object, why, and what to do.
 *
 * While log_hold() is in force messages are kept in memory (the newest 256), because
 * the file system under the log may be frozen; log_flush() writes them.
 */
#ifndef REPROTECT_LOG_H
#define REPROTECT_LOG_H

#include <stdarg.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_NOTICE = 5, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

void log_init(const char *program, enum log_level max);
void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_hold(void);
void log_flush(void);

#define log_error(...) log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_message(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
