import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.ServerChannel;
import io.netty.channel.epoll.Epoll;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.epoll.EpollServerSocketChannel;
import io.netty.channel.group.ChannelGroup;
import io.netty.channel.group.DefaultChannelGroup;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.ChannelInputShutdownEvent;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.util.concurrent.GlobalEventExecutor;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/**
 * Netty: the echo of its user guide, on the epoll transport where the native library is found, else
 * on NIO.
 *
 * <p>Its stop is the one of its guides: close the listener and all channels of a group, then
 * {@code shutdownGracefully}. The quiet period, two seconds by default, is none here: it would only
 * delay the exit.
 *
 * <p>Usage: {@code EchoServer THREADS echo|sink}. Says {@code ready PORT}, answers questions on
 * standard input as the other servers do, and ends at SIGTERM.
 */
public final class EchoServer {
    /** All connections that are open. */
    private static final ChannelGroup OPEN = new DefaultChannelGroup(GlobalEventExecutor.INSTANCE);

    public static void main(String[] arguments) throws Exception {
        int threads = Integer.parseInt(arguments[0]);
        boolean sink = arguments[1].equals("sink");
        boolean epoll = Epoll.isAvailable();
        EventLoopGroup boss = epoll ? new EpollEventLoopGroup(1) : new NioEventLoopGroup(1);
        EventLoopGroup workers =
                epoll ? new EpollEventLoopGroup(threads) : new NioEventLoopGroup(threads);
        Class<? extends ServerChannel> channel =
                epoll ? EpollServerSocketChannel.class : NioServerSocketChannel.class;
        Channel listener = new ServerBootstrap()
                .group(boss, workers)
                .channel(channel)
                .option(ChannelOption.SO_BACKLOG, 4096)
                .childOption(ChannelOption.TCP_NODELAY, true)
                .childOption(ChannelOption.ALLOW_HALF_CLOSURE, sink)
                .childHandler(new ChannelInitializer<SocketChannel>() {
                    @Override
                    protected void initChannel(SocketChannel child) {
                        OPEN.add(child);
                        child.pipeline().addLast(sink ? new Sink() : new Echo());
                    }
                })
                .bind("127.0.0.1", 0)
                .sync()
                .channel();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(listener, boss, workers)));
        System.out.println("ready " + ((InetSocketAddress) listener.localAddress()).getPort());
        answerQuestions();
        listener.closeFuture().sync();
    }

    /** Listener, connections, threads. */
    private static void stop(Channel listener, EventLoopGroup boss, EventLoopGroup workers) {
        listener.close().awaitUninterruptibly();
        OPEN.close().awaitUninterruptibly();
        workers.shutdownGracefully(0, 10, TimeUnit.SECONDS);
        boss.shutdownGracefully(0, 10, TimeUnit.SECONDS);
        workers.terminationFuture().awaitUninterruptibly();
        boss.terminationFuture().awaitUninterruptibly();
    }

    /** Answers {@code usage} and {@code heap} until whoever asks is gone. */
    private static void answerQuestions() throws IOException {
        BufferedReader questions = new BufferedReader(new InputStreamReader(System.in));
        for (String line = questions.readLine(); line != null; line = questions.readLine()) {
            if (line.equals("usage")) {
                // The 14th and 15th field, in ticks of 10 ms; the second may have blanks in it.
                String stat = Files.readString(Path.of("/proc/self/stat"));
                String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
                long user = Long.parseLong(fields[11]) * 10_000;
                long system = Long.parseLong(fields[12]) * 10_000;
                System.out.println(user + " " + system);
            } else {
                // What is garbage is not lent out.
                System.gc();
                Runtime runtime = Runtime.getRuntime();
                System.out.println(runtime.totalMemory() - runtime.freeMemory());
            }
        }
    }

    /** Sends back what comes, and flushes once for all that could be read. */
    @ChannelHandler.Sharable
    private static final class Echo extends ChannelInboundHandlerAdapter {
        @Override
        public void channelRead(ChannelHandlerContext context, Object message) {
            context.write(message);
        }

        @Override
        public void channelReadComplete(ChannelHandlerContext context) {
            context.flush();
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            context.close();
        }
    }

    /** Counts, and sends the count when the peer has finished. */
    private static final class Sink extends ChannelInboundHandlerAdapter {
        private long taken;

        @Override
        public void channelRead(ChannelHandlerContext context, Object message) {
            ByteBuf bytes = (ByteBuf) message;
            taken += bytes.readableBytes();
            bytes.release();
        }

        @Override
        public void userEventTriggered(ChannelHandlerContext context, Object event) {
            if (event instanceof ChannelInputShutdownEvent) {
                context.writeAndFlush(Unpooled.copyLong(taken))
                        .addListener(ChannelFutureListener.CLOSE);
            }
        }

        @Override
        public void exceptionCaught(ChannelHandlerContext context, Throwable cause) {
            context.close();
        }
    }
}
