/*
 * RateLimit.java: spend from a limit by PgJDBC, read a refusal, ask again at its date
 *
 *   java -cp postgresql.jar RateLimit.java URL SCOPE KEY API [COST [MAX_WAIT]]
 *
 * The methods are to be copied. main() shows them at work: it spends until it is
 * refused, asks again at the date if that is at most MAX_WAIT seconds (30) away,
 * asks once more without an error, and prints what it saw as JSON.
 *
 * Copyright (c) 2026, the fliplet_ratelimit developers
 */

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class RateLimit {
    /** What a request spends from. */
    record Request(String scope, String key, String api, long cost, String plan) {}

    /** The verdict on a request, as far as it is of use here. */
    record Verdict(boolean allowed, String reason, Long remaining, Duration delay,
            Instant nextValidAt, String limit, String body) {}

    /** A request that was refused. */
    static class Refused extends SQLException {
        // The JDK cannot read JSON. The date is the last of the three keys.
        private static final Pattern DATE =
                Pattern.compile("\"nextValidRequestDate\": (?:null|\"([^\"]+)\")\\}$");

        final String body;     // of the 429: JSON, to be sent as it is
        final String hint;
        final String limit;
        final Instant retryAt; // null: never

        Refused(PSQLException error) {
            super(error.getServerErrorMessage().getMessage(), error.getSQLState(), error);
            ServerErrorMessage fields = error.getServerErrorMessage();
            body = fields.getDetail();
            hint = fields.getHint();
            limit = fields.getConstraint();
            Matcher date = DATE.matcher(body);
            if (!date.find()) {
                throw new IllegalStateException("not the DETAIL of a refusal: " + body, error);
            }
            retryAt = date.group(1) == null ? null : Instant.parse(date.group(1));
        }
    }

    /**
     * Spend, or throw Refused; returns what remains, null if no limit applies.
     * Not in a transaction that is to go on: a refusal aborts it.
     */
    static Long checked(Connection connection, Request request) throws SQLException {
        try (PreparedStatement statement =
                        prepared(connection, "SELECT fl_rate_check(?, ?, ?, ?, ?)", request);
                ResultSet row = statement.executeQuery()) {
            row.next();
            return row.getObject(1, Long.class); // getLong() would make 0 of NULL
        } catch (PSQLException error) {
            throw "PT429".equals(error.getSQLState()) ? new Refused(error) : error;
        }
    }

    /** Spend, or be told why not: never an error because of a limit. */
    static Verdict tried(Connection connection, Request request) throws SQLException {
        String sql = "SELECT v.allowed, v.reason, v.remaining, v.name, v.next_valid_at,"
                + " fl_rate_body(v) AS body, (fl_rate_json(v) ->> 'delayMs')::numeric AS delay_ms"
                + " FROM fl_rate_try(?, ?, ?, ?, ?) v";
        try (PreparedStatement statement = prepared(connection, sql, request);
                ResultSet row = statement.executeQuery()) {
            row.next();
            OffsetDateTime next = row.getObject("next_valid_at", OffsetDateTime.class);
            return new Verdict(row.getBoolean("allowed"), row.getString("reason"),
                    row.getObject("remaining", Long.class),
                    Duration.ofMillis(row.getLong("delay_ms")),
                    next == null ? null : next.toInstant(),
                    row.getString("name"), row.getString("body"));
        }
    }

    private static PreparedStatement prepared(Connection connection, String sql, Request request)
            throws SQLException {
        PreparedStatement statement = connection.prepareStatement(sql);
        statement.setString(1, request.scope());
        statement.setString(2, request.key());
        statement.setString(3, request.api());
        statement.setLong(4, request.cost());
        if (request.plan() == null) {
            statement.setNull(5, Types.VARCHAR);
        } else {
            statement.setString(5, request.plan());
        }
        return statement;
    }

    interface Call<T> {
        T make() throws SQLException;
    }

    /** The shortest pause before asking again */
    private static final Duration PAUSE = Duration.ofMillis(50);

    /**
     * Make a call again at the date of its refusal, as often as it takes, within
     * maxWait in all. A refusal that has no date, or a later one, is thrown at
     * once.
     */
    static <T> T retrying(Call<T> call, Duration maxWait) throws SQLException, InterruptedException {
        Instant giveUp = Instant.now().plus(maxWait);
        for (;;) {
            Instant due;
            try {
                return call.make();
            } catch (Refused refusal) {
                if (refusal.retryAt == null) {
                    throw refusal;
                }
                // the date may be past already, by a clock that is ahead of the server's
                due = Instant.now().plus(PAUSE);
                if (due.isBefore(refusal.retryAt)) {
                    due = refusal.retryAt;
                }
                if (due.isAfter(giveUp)) {
                    throw refusal;
                }
            }
            while (Instant.now().isBefore(due)) {
                // toMillis() cuts
                Thread.sleep(Duration.between(Instant.now(), due).toMillis() + 1);
            }
        }
    }

    private static final PrintStream OUT =
            new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    /** A string or a date as JSON */
    private static String json(Object value) {
        if (value == null) {
            return "null";
        }
        return '"' + value.toString().replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    private static int pidOf(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SELECT pg_backend_pid()")) {
            row.next();
            return row.getInt(1);
        }
    }

    public static void main(String[] args) throws Exception {
        Request request = new Request(args[1], args[2], args[3],
                args.length > 4 ? Long.parseLong(args[4]) : 1, null);
        Duration maxWait = Duration.ofSeconds(args.length > 5 ? Long.parseLong(args[5]) : 30);

        try (Connection connection = DriverManager.getConnection(args[0])) {
            OUT.printf("{\"connected\": %d}%n", pidOf(connection));

            try {
                for (int n = 0; n < 1000; n++) {
                    OUT.printf("{\"granted\": %d}%n", checked(connection, request));
                }
            } catch (Refused refusal) {
                OUT.printf("{\"refused\": {\"sqlstate\": %s, \"message\": %s, \"body\": %s,"
                        + " \"hint\": %s, \"limit\": %s, \"retryAt\": %s}}%n",
                        json(refusal.getSQLState()), json(refusal.getMessage()), refusal.body,
                        json(refusal.hint), json(refusal.limit), json(refusal.retryAt));
            }

            int[] attempts = {0};
            try {
                Long remaining = retrying(() -> {
                    attempts[0]++;
                    return checked(connection, request);
                }, maxWait);
                OUT.printf("{\"retried\": {\"attempts\": %d, \"remaining\": %d, \"at\": %s}}%n",
                        attempts[0], remaining, json(Instant.now()));
            } catch (Refused refusal) {
                OUT.printf("{\"gaveUp\": {\"attempts\": %d, \"retryAt\": %s}}%n",
                        attempts[0], json(refusal.retryAt));
            }

            // in a transaction that goes on
            connection.setAutoCommit(false);
            Verdict verdict = tried(connection, request);
            OUT.printf("{\"tried\": {\"allowed\": %b, \"reason\": %s, \"limit\": %s,"
                    + " \"nextValidAt\": %s}}%n",
                    verdict.allowed(), json(verdict.reason()), json(verdict.limit()),
                    json(verdict.nextValidAt()));
            OUT.printf("{\"afterwards\": %d}%n", pidOf(connection));
            connection.commit();
        }
    }
}
